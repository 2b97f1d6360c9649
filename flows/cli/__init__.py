"""The command `erasure-audit`, a module per group of commands."""
