"""Stages on other machines."""
