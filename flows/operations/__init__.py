"""What is done with a batch day by day: running, sign-off, release, notices, and what deployments
share."""

__all__ = [
    "audit_flow",
    "audit_sampling",
    "deployment",
    "monitoring",
    "night_run",
    "release",
    "run_batch",
    "signoff",
]
