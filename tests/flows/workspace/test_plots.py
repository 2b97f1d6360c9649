"""The pictures of `dvc plots show` are templates of ours, on a page that loads nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from flows.workspace import layout, shell
from tasks.common import files
from tasks.verification import batch_verdicts
from tests.tasks.reporting.test_browser import BROWSER, REQUIRED
from tests.worlds import fabricated

PLOTS = Path(__file__).parents[3] / ".dvc" / "plots"


@pytest.mark.parametrize("name", ["influence", "trace"])
def test_templates_are_vega_lite_with_the_places_that_dvc_fills(name: str) -> None:
    text = (PLOTS / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(text)["usermeta"] == {"erasure_audit": name}
    assert {"<DVC_METRIC_DATA>", "<DVC_METRIC_TITLE>"} <= set(
        re.findall("<DVC_METRIC_[A-Z]+>", text)
    )
    assert f"template: {name}" in (PLOTS.parents[1] / "dvc.yaml").read_text(encoding="utf-8")


def test_the_page_asks_the_network_for_nothing() -> None:
    page = (PLOTS / "page.html").read_text(encoding="utf-8")
    assert "{plot_divs}" in page
    assert "{scripts}" not in page  # there DVC would put addresses of a network
    assert set(re.findall(r"https?://[^\"]+", page)) == {"http://www.w3.org/2000/svg"}


def test_every_workspace_uses_the_page(tmp_path: Path) -> None:
    layout.init(tmp_path / "new")
    made = tmp_path / "new" / ".dvc"
    assert "html_template = plots/page.html" in (made / "config").read_text(encoding="utf-8")
    assert {path.name for path in (made / "plots").iterdir()} == {
        "influence.json",
        "page.html",
        "trace.json",
    }


VERIFY = """stages:
  verify:
    cmd: "true"
    metrics:
      - metrics.json: {cache: false}
    plots:
      - influence.csv: {x: request, y: influence, template: influence, cache: false}
"""
BATCHES = {
    "2026-11-21": (fabricated.PASS, fabricated.FAIL, fabricated.OPEN),
    "2026-11-28": (fabricated.BELOW, fabricated.WEAK),
}


@pytest.fixture(scope="module")
def audited_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the figures of two batches, each at its tag."""
    home = tmp_path_factory.mktemp("plots") / "home"
    home.mkdir()
    shell.git(home, "init", "--quiet")
    shell.git(home, "config", "user.name", "Tester")
    shell.git(home, "config", "user.email", "tester@example.org")
    shell.dvc(home, "init", "--quiet")
    shutil.copytree(PLOTS, home / ".dvc" / "plots")
    (home / ".dvc" / "config").write_text(layout.CONFIG)
    (home / "dvc.yaml").write_text(VERIFY)
    verdicts = fabricated.inputs()["verdicts"]["requests"]
    for batch, requests in BATCHES.items():
        judged = {request: verdicts[request] for request in requests}
        files.write_json(home / "metrics.json", batch_verdicts.metrics(judged))
        (home / "influence.csv").write_text(batch_verdicts.influence_table(judged, 0.5))
        shell.git(home, "add", ".")
        shell.git(home, "commit", "--quiet", "-m", batch)
        shell.git(home, "tag", f"audit/{batch}")
    return home


def test_metrics_of_two_batches_say_how_many_requests_ended_how(audited_twice: Path) -> None:
    tags = [f"audit/{batch}" for batch in BATCHES]
    text = shell.dvc(audited_twice, "metrics", "diff", "--all", "--json", *tags)
    rows = {
        name: (row["old"], row["new"]) for name, row in json.loads(text)["metrics.json"].items()
    }
    assert {name: rows[name] for name in rows if name.startswith("requests")} == {
        "requests": (3, 2),
        "requests_failed": (1, 0),
        "requests_inconclusive": (1, 1),
        "requests_passed": (1, 1),
        "requests_passed_in_the_batch_as_a_whole": (1, 0),
    }
    assert rows["influence_left_highest"] == (0.94, 0.4)
    assert rows["accuracy_on_unseen_people"] == (0.848, 0.848)
    assert rows["accuracy_on_unseen_people_if_retrained"] == (0.858, 0.858)
    assert len(rows) == 9


@pytest.mark.skipif(BROWSER is None and not REQUIRED, reason="no Chromium on this machine")
def test_the_picture_of_two_batches_tells_them_apart_on_a_round_scale(audited_twice: Path) -> None:
    from playwright.sync_api import sync_playwright

    shell.dvc(audited_twice, "plots", "diff", *(f"audit/{batch}" for batch in BATCHES))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page()
        page.goto((audited_twice / "dvc_plots" / "index.html").as_uri())
        texts = page.locator("svg text").all_text_contents()
        widths = page.locator("svg").evaluate_all(
            "all => all.map(svg => [svg.getBBox().x, svg.getBBox().x + svg.getBBox().width, "
            "svg.clientWidth])"
        )
        browser.close()
    assert "2026-11-21  0b5f1b1e  unlearned" in texts
    assert "2026-11-28  3e8c4e4b  unlearned" in texts
    assert [text for text in texts if re.fullmatch(r"[−0-9.]+", text)] == [
        *("−2", "−1", "0", "1", "2", "3"),
    ]
    assert all(left >= 0 and right <= width for left, right, width in widths)
