"""What is done with a batch day by day: running, sign-off, release, notices."""
