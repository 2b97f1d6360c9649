"""Signatures of reports: keys, the signature inside a PDF, the signed statement, and time stamps.

Bytes in, values out; `flows.reports.signing` reads and writes the files.
"""

__all__ = ["keys", "pdf_signature", "statement", "time_stamps"]
