"""How requests come in, and how their controllers are told of them."""

__all__ = ["batch_requests", "callbacks", "drop_folder", "pseudonymise"]
