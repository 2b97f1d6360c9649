"""Running the stages of one batch, closing it, reading its results, reproducing it."""

__all__ = [
    "audit_log",
    "cache_repair",
    "close_batch",
    "console",
    "prepare",
    "reproduce",
    "results",
    "stage_runner",
]
