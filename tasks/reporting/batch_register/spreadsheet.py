"""The lines of registers as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tasks.reporting.batch_register.schema import BatchRegister

TABLE = "register.csv"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet may take for a formula (OWASP, CSV injection)."""


def table(registers: Sequence[BatchRegister]) -> str:
    """All lines as CSV for a spreadsheet (RFC 4180): a byte-order mark, and no cell of text that
    starts a formula."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            *(
                "batch",
                "request",
                "outcome",
                "reason",
                "residual_influence",
                "low",
                "high",
                "records",
                "regulation",
            ),
            *(
                "received",
                "deadline",
                "days_left",
                "status",
                "test",
                "q_pass",
                "holds_in_batch",
                "folder",
                "earlier_audits",
                "not_told",
            ),
        ]
    )
    for register in registers:
        for entry in register.requests:
            influence = entry.residual_influence
            judged = entry.register_
            row = [
                *(register.batch, entry.request_id, entry.outcome, entry.reason),
                *(
                    influence.estimate,
                    influence.low,
                    influence.high,
                    entry.records,
                    entry.regulation,
                ),
                *(entry.received, entry.deadline, entry.days_left, entry.progress, entry.test),
                *(judged and judged.q_pass, judged and judged.holds, entry.folder),
                entry.earlier_audits,
                "; ".join(entry.not_told),
            ]
            writer.writerow([inert(cell) if isinstance(cell, str) else cell for cell in row])
    return "\ufeff" + text.getvalue()


def inert(cell: str) -> str:
    """The text with an apostrophe before it where a spreadsheet could take it for a formula."""
    return (
        f"'{cell}"
        if cell.lstrip(" \u00a0\u3000").startswith(FORMULA) or cell.startswith(FORMULA)
        else cell
    )
