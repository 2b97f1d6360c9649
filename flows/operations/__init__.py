"""What is done with a batch day by day: running, the night, the watch, notices, and what
deployments share."""

__all__ = [
    "audit_flow",
    "audit_sampling",
    "deployment",
    "monitoring",
    "night_run",
    "run_batch",
]
