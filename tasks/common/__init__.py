"""Used by every package: errors, files, settings, languages, random streams, the stage command."""

__all__ = [
    "cost_ledger",
    "errors",
    "files",
    "language",
    "seeds",
    "settings",
    "stage_cli",
    "worker_pool",
]
