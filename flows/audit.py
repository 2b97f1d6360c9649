"""The deployment `audit`: brings the batch of `params.yaml` up to date, by hand."""

from flows.operations.audit_flow import audit

__all__ = ["audit"]
