"""Daily operation of batches: runs, the night, the watch, notices, and shared code of
deployments."""

__all__ = [
    "audit_flow",
    "audit_sampling",
    "deployment",
    "monitoring",
    "night_run",
    "run_batch",
]
