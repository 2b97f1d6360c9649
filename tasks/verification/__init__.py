"""Scores, the verdict, and the attacks and measurements reported beside it."""

__all__ = [
    "attacks",
    "feature_probes",
    "gates",
    "multiplicity",
    "scoring",
    "screening",
    "utility",
    "verdicts",
]
