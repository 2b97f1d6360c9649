"""Orchestration: the command line and the Prefect flows that run the stages DVC knows of."""
