"""Evidence, and what the reports show of it."""
