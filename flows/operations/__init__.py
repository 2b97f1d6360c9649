"""What is done with a batch day by day: running, sign-off, release, notices."""

__all__ = [
    "audit_sampling",
    "monitoring",
    "night_run",
    "notices",
    "release",
    "run_batch",
    "signoff",
]
