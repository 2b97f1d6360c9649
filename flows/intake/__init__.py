"""How requests come in, and how their controllers are told of them."""

__all__ = ["callbacks", "drop_folder", "pseudonymise"]
