"""FCALB and the methods that it is compared with."""

__all__ = ["fcalb", "rivals"]
