"""A workspace: its folder, git, DVC's graph and locks, checkouts, keys and secrets."""
