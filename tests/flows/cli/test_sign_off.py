"""The commands `approve` and `reject`: what is said with them comes into the reports."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import sign_off
from flows.register.register import Register
from flows.release import approval
from tasks.reporting import build_evidence, pages
from tasks.reporting.pdf import Printer
from tests.worlds import fabricated, signed_off
from tests.worlds.signed_off import BATCH, PASS

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"


@pytest.mark.parametrize(
    ("words", "ground"),
    [
        (("approve", BATCH), "Art. 17(1)(b) GDPR"),
        (("reject", BATCH, "--next", "refuse"), "Art. 17(3)(e) GDPR"),
    ],
)
def test_the_provision_that_a_decision_names_stands_in_evidence_page_and_pdf(
    words: tuple[str, ...], ground: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = signed_off.make(tmp_path / "home", {PASS: "pass"})
    monkeypatch.chdir(home)
    who = ("--by", "Ada Okafor", "--comment", "read", "--ground", ground)
    done = CliRunner().invoke(sign_off.app, [*words, *who])
    assert done.exit_code == 0, done.output
    item = evidence(home)
    assert item["approvals"][0]["ground"] == ground
    html = pages.render(pages.environment(TEMPLATES), "report.html.j2", {"e": item})
    decision = html[: html.index('<h2 class="part"')]
    assert ground in decision
    pdf = Printer(TEMPLATES).pdf(html, None, "2026-11-21T01:02:03Z")
    command = ["pdftotext", "-raw", "-l", "2", "-", "-"]
    text = subprocess.run(command, input=pdf, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert ground in " ".join(text.split())


def evidence(home: Path) -> dict[str, Any]:
    """The evidence of a request, made with the decisions that the register of a workspace has."""
    with closing(Register(home)) as register:
        commit = approval.audit_commit(home, BATCH)
        approvals = approval.all_decisions(register, BATCH, commit)
    inputs = fabricated.inputs()
    inputs["decisions"]["approvals"] = [
        {**entry, "request": fabricated.PASS} for entry in approvals
    ]
    items = build_evidence.build_all(fabricated.sources(inputs))
    return next(item for item in items if item["request"]["id"] == fabricated.PASS)
