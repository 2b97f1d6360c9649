"""Models: architectures, the training loop, blocks of reference models, the lineage of releases."""

__all__ = [
    "architectures",
    "checkpoints",
    "compute",
    "history",
    "original_check",
    "reference_blocks",
    "release_lineage",
    "training_loop",
]
