"""The pages as they are meant: a change of a template shows in `golden/`, to be looked at and
committed with it.

RENEW_GOLDEN=1 .venv/bin/python -m pytest tests/tasks/reporting/test_golden.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tasks.reporting import build_evidence
from tasks.reporting.pages import environment as page_environment
from tasks.reporting.pages import render as render_page
from tests.worlds import fabricated

GOLDEN = Path(__file__).parent / "golden"
TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
KINDS = {"pass": fabricated.PASS, "rejected": fabricated.SET_ASIDE}


def words(request_id: str) -> str:
    """The page of a request without its style sheet, no blank line in it."""
    found = {item["request"]["id"]: item for item in build_evidence.build_all(fabricated.sources())}
    html = render_page(page_environment(TEMPLATES), "report.html.j2", {"e": found[request_id]})
    plain = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\n\s*\n", "\n", plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_the_one_that_was_looked_at(kind: str) -> None:
    path, found = GOLDEN / f"{kind}.html", words(KINDS[kind])
    if "RENEW_GOLDEN" in os.environ:
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8"), (
        "look at the page, then RENEW_GOLDEN=1 renews the golden file"
    )
