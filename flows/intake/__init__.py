"""Intake of requests, and status callbacks to their controllers."""

__all__ = ["batch_requests", "callbacks", "drop_folder", "pseudonymise"]
