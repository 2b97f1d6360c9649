"""Evidence, and what the reports show of it."""

__all__ = [
    "batch_register",
    "build_evidence",
    "evidence_schema",
    "evidence_sources",
    "letters",
    "pages",
    "pdf",
]
