"""Signatures of reports."""
