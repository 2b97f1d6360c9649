"""The pictures of `dvc plots show` are templates of ours, on a page that loads nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.workspace import layout

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
