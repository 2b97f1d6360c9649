"""Measure the register page of a large batch in Chromium: its size, and the time to load, filter
and sort.

Times are of the page's main thread (CPU), so that other work on the machine does not count: until
the rows in sight are painted.

Example: python -m benchmarks.register --requests 10000
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks import report
from tasks.common import stage_cli
from tasks.common.errors import WorkspaceError
from tasks.reporting import pages
from tasks.reporting.batch_register import schema

TEMPLATES = Path("reports/templates")
REASONS = (
    "Not decided: influence left is not shown to be below the margin.",
    "On these records the model behaves like models that never saw them, within ±0.5.",
)
ACTIONS = {
    "filter by words": "f.q.value = 'margin'; f.dispatchEvent(new Event('input'))",
    "filter by words, others": "f.q.value = '000a'; f.dispatchEvent(new Event('input'))",
    "show all again": "f.querySelector('button').click()",
    "filter by result": "document.querySelector('.tally input').click()",
    "filter by deadline": "f.due.value = 'overdue'; f.dispatchEvent(new Event('input'))",
    "show all": "f.querySelector('button').click()",
    "sort by influence": "document.querySelectorAll('thead button')[3].click()",
    "sort by request": "document.querySelectorAll('thead button')[1].click()",
    "sort by why": "document.querySelectorAll('thead button')[2].click()",
    "sort by deadline": "document.querySelectorAll('thead button')[6].click()",
}
PAINTED = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"


def main(requests: int = 10_000, rounds: int = 3) -> None:
    """Print a line per action: the median over the rounds, ms."""
    began = time.process_time()
    html = report.index_page(a_register(requests), pages.environment(TEMPLATES))
    print(
        f"{requests} requests: {len(html.encode()) / 1e6:.1f} MB, made in "
        f"{time.process_time() - began:.1f} s (CPU)"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.html"
        path.write_text(html, encoding="utf-8")
        timings = [measured(path) for _ in range(rounds)]
    for action in timings[0]:
        print(f"{action:24} {statistics.median(one[action] for one in timings):6.0f} ms")


def measured(path: Path) -> dict[str, float]:
    """CPU time of the main thread by action, ms, in a fresh browser."""
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium")
    if browser is None:
        raise WorkspaceError("no Chromium on this machine; `apt-get install chromium` brings one")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 900})
        clock = page.context.new_cdp_session(page)
        clock.send("Performance.enable", {"timeDomain": "threadTicks"})

        def spent() -> float:
            metrics = clock.send("Performance.getMetrics")["metrics"]
            return 1000 * float(
                next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
            )

        page.goto(path.as_uri())
        page.evaluate(PAINTED)
        timings = {"load": spent()}
        for action, script in ACTIONS.items():
            page.wait_for_timeout(1500)  # what the action before left to be laid out
            before = spent()
            page.evaluate(
                f"(async () => {{ const f = document.forms[0]; {script}; await {PAINTED}; }})()"
            )
            timings[action] = spent() - before
        opened.close()
    return timings


def a_register(requests: int) -> schema.BatchRegister:
    """The register of a batch in which every outcome, deadline and reason occurs."""
    lines = sorted(
        (schema.Line.model_validate(a_line(n)) for n in range(requests)),
        key=schema.urgency,
    )
    register = {
        "schema_version": schema.SCHEMA_VERSION,
        "batch": "large",
        "started": "2026-11-21T01:02:03Z",
        "tool_version": "0.1.0",
        "controller": "Example controller",
        "system": "Image classifier",
        "mode": "references",
        "alpha": 0.05,
        "method": "fcalb",
        "cost": {"train": 6.2, "unlearn": 0.5, "retrain": 6.1, "references": 198.0},
        "passes": sum(line.verdict == "pass" for line in lines),
        "passes_that_hold": sum(line.verdict == "pass" for line in lines),
        "requests": [],
    }
    return schema.checked(register, "large").model_copy(update={"requests": lines})


def a_line(n: int) -> dict[str, Any]:
    """The line of request `n`."""
    outcome = schema.OUTCOMES[7 * n % 5]
    aside = outcome == "rejected"
    rho = None if aside else n % 300 / 150 - 0.5
    return {
        "request_id": f"{n:08x}-6f5a-4c62-9a52-0d2a3a6a0001",
        "position": n,
        "folder": f"{n:08x}-6f5a-4c62-9a52-0d2a3a6a0001",
        "status": "rejected" if aside else "audited",
        "progress": "set_aside" if aside else "awaiting_signoff",
        "test": None if aside else "references",
        "verdict": outcome if outcome in ("pass", "fail") else "inconclusive",
        "outcome": outcome,
        "register": None
        if aside
        else {"q_pass": 0.01 if outcome == "pass" else 1.0, "holds": outcome == "pass"},
        "reason": REASONS[n % 2],
        "regulation": ("gdpr", "ccpa", "lgpd", "pipl")[n % 4],
        "received": "2026-11-10T09:30:00+01:00",
        "subject_pseudonym": "0123456789ab",
        "records": n % 400,
        "deadline": None if n % 4 == 3 else f"2026-{11 + n % 2}-{1 + n % 28:02}",
        "days_left": None if n % 4 == 3 else n % 60 - 10,
        "residual_influence": {
            "estimate": rho,
            "low": rho and rho - 0.3,
            "high": rho and rho + 0.3,
        },
        "sha256": {},
    }


if __name__ == "__main__":
    stage_cli.run(main)
