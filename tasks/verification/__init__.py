"""Scores, the verdict, and the attacks and measurements reported beside it."""

__all__ = [
    "attacks",
    "contrast",
    "feature_probes",
    "retrain_advice",
    "scoring",
    "screening",
    "utility",
    "verdicts",
]
