"""Scores, the verdict, and the attacks and measurements reported beside it."""

__all__ = [
    "attacks",
    "batch_verdicts",
    "gates",
    "multiplicity",
    "scoring",
    "screening",
    "utility",
    "verdicts",
]
