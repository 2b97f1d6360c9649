"""Scores, the verdict, and the attacks and measurements reported beside it."""

__all__ = [
    "attacks",
    "gates",
    "multiplicity",
    "scoring",
    "screening",
    "utility",
    "verdicts",
]
