"""A workspace: its folder, git, DVC's graph and locks, checkouts, keys and secrets."""

__all__ = [
    "checkouts",
    "dvc_graph",
    "dvc_locks",
    "environment",
    "layout",
    "secrets",
    "shell",
    "signing_keys",
]
