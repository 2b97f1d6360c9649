"""Planning and running the stages of one batch, closing it, reading its results, reproducing it."""

__all__ = [
    "cache_repair",
    "close_batch",
    "console",
    "forecast",
    "prepare",
    "reproduce",
    "results",
    "stage_runner",
]
