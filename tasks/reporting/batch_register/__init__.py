"""The register of deletion requests: a line per request, the worst first, of one batch or of all.

`register.json` holds a batch's lines. The pages, the spreadsheet and the summary show nothing else.
"""

__all__ = ["build", "page_contents", "schema", "spreadsheet", "stored"]
