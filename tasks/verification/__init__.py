"""Scores, the verdict, and the attacks and measurements reported beside it."""
