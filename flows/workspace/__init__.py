"""A workspace: its folder, git, DVC's graph and locks, checkouts, keys and secrets."""

__all__ = [
    "checkouts",
    "dvc_graph",
    "dvc_locks",
    "environment",
    "git",
    "layout",
    "shell",
    "signing_keys",
]
