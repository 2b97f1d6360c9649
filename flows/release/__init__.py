"""From an audited batch to a finished one: people decide, the model is released, the batch is closed."""

__all__ = ["approval", "finishing", "next_audit", "registered", "release", "standing"]
