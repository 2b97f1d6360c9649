"""The pages in a real browser: they render, filter and sort by keyboard alone, print whole, and
shut nobody out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pikepdf
import pytest

from flows.reports import overview as registers
from tasks import report
from tasks.common import files, settings
from tasks.common.language import Code
from tasks.reporting import build_evidence, pages
from tasks.reporting.batch_register import schema
from tasks.reporting.pages import environment as page_environment
from tests.worlds import dummy, endings, fabricated

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEMPLATES = Path(__file__).parents[3] / "reports" / "templates"
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
REQUIRED = os.environ.get("ERASURE_AUDIT_BROWSER") == "required"
"""Set where a missing browser is a failure: in continuous integration."""
pytestmark = pytest.mark.skipif(
    BROWSER is None and not REQUIRED,
    reason="no Chromium on this machine; `apt-get install chromium` brings one",
)
HOSTILE = (
    '<script>document.title="owned"</script><img src=x onerror=alert(1)>{{ 7*7 '
    "}}</style>\u202egnp.exe"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert BROWSER, "no Chromium on this machine, and ERASURE_AUDIT_BROWSER=required asks for one"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `reports` of a workspace: a request of each ending, one with hostile fields, and
    all batches."""
    workspace = tmp_path_factory.mktemp("workspace")
    inputs = fabricated.inputs()
    inputs["register"]["batch_requests"][4].update(reason=HOSTILE, code=HOSTILE, regulation=HOSTILE)
    inputs["decisions"] = fabricated.erased(fabricated.PASS)
    report.write(
        build_evidence.build_all(fabricated.sources(inputs)),
        TEMPLATES,
        workspace / "reports" / "spring",
    )
    shutil.copytree(TEMPLATES, workspace / "reports" / "templates")
    (workspace / "params.yaml").write_text(settings.defaults_yaml())
    files.write_json(
        workspace / "reports" / "summer" / "register.json", {**dummy.REGISTER, "batch": "summer"}
    )
    registers.write(workspace, date(2026, 12, 12))
    return workspace / "reports"


PAGES = {
    **{kind: f"spring/{request}/report.html" for kind, request in {
        "erased": fabricated.PASS, "fail": fabricated.FAIL, "inconclusive": fabricated.OPEN,
        "below detection": fabricated.BELOW, "set aside": fabricated.SET_ASIDE,
        "not judged": fabricated.UNJUDGED,
        "weak pass": fabricated.WEAK,
    }.items()},
    "batch": "spring/index.html",
    "summary": "spring/summary.html",
    "all batches": "index.html",
}  # fmt: skip


class Opened:
    """A page, with what it complained of and asked for."""

    def __init__(self, browser: Browser, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def others(self) -> list[str]:
        """What was asked for beside the page itself and what it carries."""
        return [
            url
            for url in self.asked
            if url.split("#")[0] != self.page.url.split("#")[0] and url[:5] != "data:"
        ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
def test_a_page_renders_without_complaint_asks_for_nothing_and_has_no_serious_fault(
    path: str, scheme: str, reports: Path, browser: Browser
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = Opened(
        browser,
        reports / path,
        color_scheme=scheme,
        viewport={"width": 1280, "height": 900},
        bypass_csp=True,
    )
    with opened as page:
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        faults = [
            f"{fault['id']}: {fault['nodes'][0]['html'][:200]} "
            f"{fault['nodes'][0].get('failureSummary', '')[:300]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert faults == []
        assert opened.others() == []
        assert opened.complaints == []


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
def test_a_page_fits_a_phone_and_stays_inert_under_its_own_policy(
    path: str, reports: Path, browser: Browser
) -> None:
    opened = Opened(browser, reports / path, viewport={"width": 360, "height": 740})
    with opened as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.title() != "owned"
        assert page.locator("img").count() == 0
        assert "\u202e" not in page.content()
        assert (opened.complaints, opened.others()) == ([], [])


def shown(page: Page) -> list[str]:
    """The requests in the order in which they stand."""
    return page.locator("tbody th a.id").all_text_contents()


@pytest.mark.parametrize("path", ["spring/index.html", "index.html"])
def test_without_script_the_table_is_whole_with_the_worst_first(
    path: str, reports: Path, browser: Browser
) -> None:
    with Opened(browser, reports / path, java_script_enabled=False) as page:
        assert page.locator("tbody tr").count() == (7 if "spring" in path else 9)
        assert (
            fabricated.FAIL
            in page.locator("tbody tr").all_inner_texts()[0 if "spring" in path else 1]
        )
        assert not page.locator("form").is_visible()
        assert not page.locator(".tally input").first.is_visible()
        assert page.locator("thead button").count() == 0


def test_filters_narrow_the_table_and_the_address_keeps_them(
    reports: Path, browser: Browser
) -> None:
    with Opened(browser, reports / "spring" / "index.html") as page:
        page.get_by_role("checkbox", name="Pass").check()
        assert set(shown(page)) == {fabricated.PASS, fabricated.WEAK}
        page.get_by_label("Search").fill(fabricated.WEAK[:8])
        assert shown(page) == [fabricated.WEAK]
        assert page.get_by_role("status").inner_text() == "1 of 7 requests are shown."
        address = page.url
        page.get_by_role("button", name="Show all").click()
        assert len(shown(page)) == 7
        page.goto("about:blank")
        page.goto(address)
        assert shown(page) == [fabricated.WEAK]
        page.get_by_role("button", name="Show all").click()
        page.get_by_label("Deadline").select_option("none")
        assert shown(page) == [fabricated.BELOW, fabricated.SET_ASIDE]
        page.get_by_label("Deadline").select_option("soon")
        assert shown(page) == [fabricated.OPEN]
        page.get_by_label("Search").fill("no such words")
        assert shown(page) == []
        assert page.get_by_role("status").inner_text() == "0 of 7 requests are shown."


def test_all_batches_can_be_narrowed_to_one(reports: Path, browser: Browser) -> None:
    with Opened(browser, reports / "index.html") as page:
        page.get_by_label("Batch").select_option("summer")
        assert shown(page) == dummy.REQUESTS
        page.get_by_role("button", name="Show all").click()
        page.get_by_label("Deadline").select_option("overdue")
        assert len(shown(page)) == 2


def test_columns_sort_both_ways_with_the_unknown_last(reports: Path, browser: Browser) -> None:
    with Opened(browser, reports / "spring" / "index.html") as page:
        worst_first = shown(page)
        button = page.get_by_role("button", name="Influence")
        button.click()
        up = shown(page)
        assert up[:2] == [fabricated.PASS, fabricated.WEAK]
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Influence")
        button.click()
        down = shown(page)
        assert down[:5] == up[:5][::-1]
        assert set(down[5:]) == set(up[5:]) == {fabricated.UNJUDGED, fabricated.SET_ASIDE}
        page.get_by_role("button", name="Show all").click()
        assert shown(page) == worst_first


def test_everything_works_by_keyboard_with_a_focus_that_is_seen(
    reports: Path, browser: Browser
) -> None:
    with Opened(browser, reports / "spring" / "index.html") as page:
        reached: list[str] = []
        for _ in range(24):
            page.keyboard.press("Tab")
            name, outline = page.evaluate(
                "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
                " return [e.name || e.value || e.textContent.trim().slice(0, 14),"
                " s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1] })()"
            )
            assert outline, name
            reached.append(name)
            if name == "pass":
                page.keyboard.press("Space")
            if name == "Records":
                page.keyboard.press("Enter")
        order = ["fail", "pass", "q", "due", "progress", "Result", "Records", "Status"]
        assert [name for name in reached if name in order] == order
        assert set(shown(page)) == {fabricated.PASS, fabricated.WEAK}
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Records")


def test_the_table_is_one_for_assistive_technology(reports: Path, browser: Browser) -> None:
    for width in (1280, 360):
        with Opened(
            browser, reports / "spring" / "index.html", viewport={"width": width, "height": 900}
        ) as page:
            table = page.get_by_role("table")
            assert table.get_by_role("row").count() == 8
            assert table.get_by_role("columnheader").count() == 8
            assert table.get_by_role("rowheader").count() == 7


def text_of(pdf: bytes, folder: Path) -> str:
    import subprocess

    (folder / "page.pdf").write_bytes(pdf)
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext on this machine")
    return subprocess.run(
        ["pdftotext", "-layout", folder / "page.pdf", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def a_big_page(requests: int) -> str:
    """The page of a batch of so many requests, all alike."""
    line = dummy.REGISTER["requests"][0]  # type: ignore[index]
    lines = [
        {**line, "request_id": f"no-{n:05}", "folder": f"no-{n:05}", "position": n}
        for n in range(requests)
    ]
    listed = schema.checked({**dummy.REGISTER, "batch": "big", "requests": lines}, "big")
    return report.index_page(listed, page_environment(TEMPLATES))


def test_the_print_has_all_rows_and_no_tools(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "index.html").write_text(a_big_page(400), encoding="utf-8")
    with Opened(browser, tmp_path / "index.html") as page:
        page.get_by_role("button", name="Request").click()
        page.get_by_role("button", name="Request").click()
        text = text_of(page.pdf(prefer_css_page_size=True), tmp_path)
    for number in range(400):
        assert f"no-{number:05}" in text
    assert "Words in a row" not in text
    assert "Influence" in text


def test_the_print_of_a_report_is_whole(reports: Path, browser: Browser, tmp_path: Path) -> None:
    with Opened(browser, reports / PAGES["fail"]) as page:
        (tmp_path / "report.pdf").write_bytes(page.pdf(prefer_css_page_size=True))
    with pikepdf.open(tmp_path / "report.pdf") as pdf:
        assert len(pdf.pages) > 1


def test_rows_that_are_laid_out_in_turns_all_come(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "index.html").write_text(a_big_page(2500), encoding="utf-8")
    with Opened(browser, tmp_path / "index.html") as page:
        page.get_by_role("button", name="Request").click()
        page.locator("tbody tr").nth(2499).wait_for(state="attached")
        assert shown(page) == [f"no-{number:05}" for number in range(2500)]
        page.get_by_label("Search").fill("no-0001")
        assert len(shown(page)) == 10


PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.mark.parametrize("kind", ["erased", "fail"])
def test_on_a_phone_a_copy_takes_no_more_room_than_its_lines(
    kind: str, reports: Path, browser: Browser
) -> None:
    with Opened(browser, reports / PAGES[kind], **PHONE) as page:
        rows = page.locator("table.copies tbody tr").evaluate_all(
            "rows => rows.map(row => ({height: row.getBoundingClientRect().height, lines: "
            "[...row.cells].reduce((sum, cell) => sum + cell.getClientRects().length && sum + "
            "Math.round(cell.getBoundingClientRect().height / 24), 0)}))"
        )
    assert len(rows) >= 7
    assert [row for row in rows if row["height"] > 24 * (row["lines"] + 1.5)] == []
    assert max(row["height"] for row in rows) <= 150


@pytest.mark.parametrize("code", ["en", "zh"])
@pytest.mark.parametrize("ending", ["later rung proposed", "screened, seen", "erased"])
def test_on_a_phone_every_value_stands_beside_the_name_of_its_column_and_none_is_out_of_sight(
    ending: str, code: Code, tmp_path: Path, browser: Browser
) -> None:
    item = endings.all_of_them()[ending]
    html = pages.render(pages.environment(TEMPLATES, code), "report.html.j2", {"e": item})
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    with Opened(browser, tmp_path / "report.html", **PHONE) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        hidden = page.locator(".scroll").evaluate_all(
            "tables => tables.filter(table => table.scrollWidth > table.clientWidth).length"
        )
        unnamed = page.locator("td.num:not([colspan])").evaluate_all(
            "cells => cells.filter(cell => !getComputedStyle(cell, '::before').content.includes("
            "cell.closest('table').tHead.rows[0].cells[cell.cellIndex].textContent.trim()))"
            ".map(cell => cell.textContent)"
        )
        numbers = page.locator("td.num").count()
    assert numbers > 5
    assert (hidden, unnamed) == (0, [])


def test_on_a_phone_no_column_of_a_chinese_table_is_a_sign_wide(
    tmp_path: Path, browser: Browser
) -> None:
    item = endings.climbed("more")
    html = pages.render(pages.environment(TEMPLATES, "zh"), "report.html.j2", {"e": item})
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    with Opened(browser, tmp_path / "report.html", **PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        narrow = page.locator(".scroll tbody td, .scroll tbody th, .sign th").evaluate_all(
            "cells => cells.filter(cell => cell.textContent.trim().length > 1 && "
            "cell.getBoundingClientRect().width < 40).map(cell => cell.textContent.trim())"
        )
    assert narrow == []
