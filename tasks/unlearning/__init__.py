"""FCALB and the methods that it is compared with."""

__all__ = ["apply", "fcalb", "ladder", "rivals"]
