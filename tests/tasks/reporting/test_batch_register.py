"""The register: the worst first, nothing left out, nothing in it that runs, the same from old
batches and new ones."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.pipeline import provenance
from flows.reports import overview as registers
from tasks import report
from tasks.common import files, settings
from tasks.common.errors import AuditError, EvidenceError
from tasks.reporting import build_evidence, evidence_schema
from tasks.reporting.batch_register import build as register_build
from tasks.reporting.batch_register import page_contents, schema, spreadsheet, stored
from tasks.reporting.pages import environment as page_environment
from tasks.reporting.pages import render as render_page
from tests.worlds import dummy, fabricated

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "reports" / "templates"
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}{{ r.__class__ }}",
    "</title></style></script><h1>Pass</h1><style>*{display:none}</style>",
    "&lt;b&gt; \u202egnp.exe\u2066 \u0000",
    '=HYPERLINK("http://example.org")',
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of the made-up batch."""
    out = tmp_path_factory.mktemp("made") / "spring"
    report.write(build_evidence.build_all(fabricated.sources()), TEMPLATES, out)
    return out


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A workspace with that batch and nothing run."""
    folder = tmp_path / "workspace"
    shutil.copytree(made, folder / "reports" / "spring")
    shutil.copytree(TEMPLATES, folder / "reports" / "templates")
    if (TEMPLATES.parent / "locales").exists():
        shutil.copytree(TEMPLATES.parent / "locales", folder / "reports" / "locales")
    (folder / "params.yaml").write_text(settings.defaults_yaml())
    return folder


class Page(HTMLParser):
    """Tags, text, and what stands in style and script of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = {"style": "", "script": ""}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.inside:
            self.inside[str(self.cdata_elem)] += data
        else:
            self.text += data


def a_register(**changes: Any) -> schema.BatchRegister:
    """A register of two requests; `changes` are of its first line."""
    found = json.loads(json.dumps({**dummy.REGISTER, "batch": "spring"}))
    found["requests"][0].update(changes)
    return schema.checked(found, "spring")


def index_of(listed: schema.BatchRegister) -> str:
    return report.index_page(listed, page_environment(TEMPLATES))


def summary_of(listed: schema.BatchRegister, earlier: list[schema.Past] | None = None) -> str:
    view = {**page_contents.summary(listed, earlier or []), "suffix": ""}
    return render_page(page_environment(TEMPLATES), "summary.html.j2", view)


def all_of(*listed: schema.BatchRegister) -> str:
    view = {
        **page_contents.page(listed),
        "suffix": "",
        "codes": ("en",),
        "made_on": "2026-11-25",
        "unreadable": {},
        "version": "0.1.0",
    }
    return render_page(page_environment(TEMPLATES), "register.html.j2", view)


def test_a_batch_lists_the_worst_first_with_the_hashes_of_its_files(made: Path) -> None:
    listed = stored.read(made)
    outcomes = [line.outcome for line in listed.requests]
    assert outcomes == [
        "fail",
        "inconclusive",
        "inconclusive",
        "below_detection",
        "rejected",
        "pass",
        "pass",
    ]
    assert list(listed.counts.values()) == [1, 2, 1, 1, 0, 0, 2]
    assert (listed.passes, listed.passes_that_hold) == (2, 1)
    for line in listed.requests:
        assert line.sha256 == {
            path.name: files.sha256(path) for path in (made / line.folder).iterdir()
        }
    text = (made / "index.html").read_text()
    assert (
        text.index(fabricated.FAIL) < text.index(fabricated.SET_ASIDE) < text.index(fabricated.PASS)
    )
    assert fabricated.SECRET not in text


@pytest.mark.parametrize("name", ["index.html", "summary.html"])
def test_a_page_is_one_file_that_allows_nothing_but_its_own_style_and_script(
    made: Path, name: str
) -> None:
    found = Page((made / name).read_text(encoding="utf-8"))
    (policy,) = [
        tag["content"]
        for _, tag in found.tags
        if tag.get("http-equiv") == "Content-Security-Policy"
    ]
    for kind, text in found.inside.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert bool(text) == (f"{kind}-src 'sha256-{digest}'" in str(policy))
    assert "default-src 'none'" in str(policy)
    assert "unsafe" not in str(policy)
    assert not {"iframe", "img", "link", "object"} & {tag for tag, _ in found.tags}
    assert not [
        key for _, tag in found.tags for key in tag if key.startswith("on") or key == "style"
    ]
    own = (
        r"#[\w-]+|(index|summary|register)(\.\w\w)?\.(html|pdf|csv|json)"
        r"|[\w-]+/(report(\.\w\w)?\.\w+|evidence\.json)"
    )
    assert all(re.fullmatch(own, str(tag["href"])) for _, tag in found.tags if "href" in tag)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["request_id", "reason", "regulation"])
def test_a_hostile_field_is_inert_on_every_page(field: str, text: str) -> None:
    shown = str(evidence_schema.visible(text))
    for page in (index_of, all_of, summary_of):
        hostile, plain = (
            page(a_register(**{field: shown})),
            page(a_register(**{field: "plain words"})),
        )
        assert [tag for tag, _ in Page(hostile).tags] == [tag for tag, _ in Page(plain).tags]
        assert Page(hostile).inside == Page(plain).inside
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000]", hostile)
    assert shown.casefold() in Page(index_of(a_register(**{field: shown}))).text.casefold()


@given(text=st.text(max_size=30))
def test_no_cell_of_the_table_starts_a_formula(text: str) -> None:
    cell = spreadsheet.inert(text)
    assert cell.endswith(text)
    assert not cell.lstrip(" \u00a0\u3000").startswith(spreadsheet.FORMULA)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_a_formula_in_a_request_is_text_in_the_table(text: str) -> None:
    assert spreadsheet.inert(text) == f"'{text}"


def test_the_table_holds_every_line_and_numbers_stay_numbers() -> None:
    listed = a_register(
        reason="=cmd|' /C calc'!A0",
        residual_influence={"estimate": -0.1, "low": None, "high": None},
    )
    text = spreadsheet.table([listed])
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline="")))
    assert [row["request"] for row in rows] == dummy.REQUESTS
    assert rows[0]["reason"] == "'=cmd|' /C calc'!A0"
    assert rows[0]["residual_influence"] == "-0.1"
    assert rows[0]["low"] == ""


def test_days_left_are_counted_from_the_day_asked_for() -> None:
    listed = a_register().as_of(date(2026, 12, 24))
    assert [line.days_left for line in listed.requests] == [-3, -3]
    assert listed.deadlines.overdue == 2
    assert listed.deadlines.next is None


@given(st.lists(st.one_of(st.none(), st.integers(-400, 400)), max_size=12))
def test_every_request_stands_under_one_kind_of_deadline(days: list[int | None]) -> None:
    today = date(2026, 11, 21)
    line = a_register().requests[0]
    lines = [
        line.model_copy(
            update={
                "days_left": left,
                "deadline": None if left is None else today + timedelta(left),
            }
        )
        for left in days
    ]
    found = schema.deadlines(lines)
    assert found.overdue + found.soon + found.later + found.none == len(days)
    ahead = [left for left in days if left is not None and left >= 0]
    assert found.next == (today + timedelta(min(ahead)) if ahead else None)


def test_the_page_says_what_is_overdue_and_what_has_no_date() -> None:
    text = Page(index_of(a_register(days_left=-1))).text
    assert "1 day overdue" in text
    assert "30 days left" in text
    assert "No date" in Page(index_of(a_register(days_left=None, deadline=None))).text


def test_the_page_of_a_screening_says_that_it_cannot_pass_anybody() -> None:
    listed = a_register().model_copy(update={"mode": "screening"})
    for page in (index_of, summary_of):
        assert "it can never pass anybody" in Page(page(listed)).text


def a_past(number: int) -> schema.Past:
    listed = a_register().model_copy(
        update={"batch": f"batch-{number}", "started": f"2026-{number:02}-01T00:00:00Z"}
    )
    return stored.past(listed)


def test_the_summary_says_what_was_asked_what_came_of_it_and_what_has_to_be_decided() -> None:
    text = " ".join(Page(summary_of(a_register())).text.replace("\u00a0", " ").split())
    for words in (
        "2 deletion requests.",
        "76 records",
        "GDPR: 2",
        "Do not release this model",
        "0.50 s",
        "21 December 2026",
    ):
        assert words in text
    assert "Batch by batch" not in text
    text = Page(summary_of(a_register(), [a_past(number) for number in range(1, 11)])).text
    assert "batch-10" in text
    assert "batch-4" not in text
    assert "4 earlier batches are left out" in text


def test_the_summary_is_one_page_however_many_batches_were_before(tmp_path: Path) -> None:
    earlier = [a_past(number) for number in range(1, 13)]
    report.write(
        build_evidence.build_all(fabricated.sources()), TEMPLATES, tmp_path / "spring", earlier
    )
    with pikepdf.open(tmp_path / "spring" / "summary.pdf") as pdf:
        assert len(pdf.pages) == 1
        assert (
            pdf.attachments["register.json"].get_file().read_bytes()
            == (tmp_path / "spring" / "register.json").read_bytes()
        )


def test_a_record_names_its_earlier_batches_and_is_not_made_anew_because_of_them(
    workspace: Path,
) -> None:
    (named,) = registers.earlier(workspace, "summer")
    assert named["batch"] == "spring"
    assert named["requests"] == 7
    assert registers.earlier(workspace, "spring") == []
    assert stored.earlier({"earlier": [named]})[0].counts["fail"] == 1
    with pytest.raises(EvidenceError, match="earlier"):
        stored.earlier({"earlier": [{"batch": "spring"}]})
    assert provenance.lasting({"tool_version": "1", "earlier": [named]}) == provenance.lasting(
        {"tool_version": "1"}
    )


def test_all_batches_stand_on_one_page_counted_from_its_day(workspace: Path) -> None:
    done = registers.write(workspace, date(2026, 12, 12))
    assert (done.batches, done.counts["fail"], done.unreadable) == (1, 1, {})
    assert done.overdue == 2
    text = (workspace / done.page).read_text(encoding="utf-8")
    assert f'href="spring/{fabricated.FAIL}/report.html"' in text
    assert "As of 12\u00a0December\u00a02026" in text
    rows = list(
        csv.DictReader(io.StringIO((workspace / done.table).read_text("utf-8-sig"), newline=""))
    )
    assert {row["batch"] for row in rows} == {"spring"}
    assert len(rows) == 7


def test_a_batch_that_waits_in_its_checkout_stands_on_the_page_and_links_lead_there(
    workspace: Path,
) -> None:
    from flows.workspace import shell

    shell.git(workspace, "init", "--quiet")
    checkout = workspace / ".batches" / "spring"
    (checkout / "reports").mkdir(parents=True)
    (checkout / ".git").write_text("gitdir: elsewhere")
    (workspace / "reports" / "spring").rename(checkout / "reports" / "spring")
    done = registers.write(workspace, date(2026, 12, 12))
    assert (done.batches, done.unreadable) == (1, {})
    text = (workspace / done.page).read_text(encoding="utf-8")
    link = f"../.batches/spring/reports/spring/{fabricated.FAIL}/report.html"
    assert f'href="{link}"' in text
    assert (workspace / "reports" / link).exists()


def test_the_page_of_all_batches_stays_out_of_git(workspace: Path) -> None:
    from flows.workspace import shell

    shell.git(workspace, "init", "--quiet")
    shell.git(workspace, "add", ".")
    registers.write(workspace)
    assert shell.git(workspace, "ls-files", "--others", "--exclude-standard") == ""


def test_a_batch_that_cannot_be_read_is_named_and_never_left_out(workspace: Path) -> None:
    files.write_json(workspace / "reports" / "old" / "register.json", {"schema_version": 1})
    files.write_json(
        workspace / "reports" / "other" / "register.json", {**dummy.REGISTER, "batch": "another"}
    )
    files.write_json(workspace / "reports" / "later" / "register.json", {"schema_version": 3})
    done = registers.write(workspace)
    assert sorted(done.unreadable) == ["later", "old", "other"]
    assert done.batches == 1
    text = Page((workspace / done.page).read_text(encoding="utf-8")).text
    assert "3 batches are missing here" in text
    assert "schema_version: Input should be 2" in text


def test_a_workspace_without_reports_says_so(tmp_path: Path) -> None:
    shutil.copytree(
        TEMPLATES.parent, tmp_path / "reports", ignore=shutil.ignore_patterns("demo", "index*")
    )
    (tmp_path / "params.yaml").write_text(settings.defaults_yaml())
    done = registers.write(tmp_path)
    assert done.batches == 0
    assert "No batch has a report yet" in (tmp_path / done.page).read_text(encoding="utf-8")


def test_what_prefect_shows_has_ids_and_verdicts_only(tmp_path: Path) -> None:
    found = json.loads(json.dumps({**dummy.REGISTER, "batch": "spring"}))
    found["requests"][1].update(
        request_id="jane.doe@example.org", reason="Jane Doe asked twice.", position=3
    )
    files.write_json(tmp_path / "reports" / "spring" / "register.json", found)
    rows, told = registers.artifact(tmp_path, "spring")
    assert [row["request"] for row in rows] == [dummy.REQUESTS[0], "request 3"]
    assert rows[0] == {
        "request": dummy.REQUESTS[0],
        "outcome": "Fail",
        "deadline": "2026-12-21",
        "days left": 30,
        "status": "Awaiting sign-off",
    }
    assert "Fail 1, Pass 1" in told
    assert "ane" not in json.dumps([rows, told])


def test_prefect_gets_the_worst_of_a_large_batch(tmp_path: Path) -> None:
    line = dummy.REGISTER["requests"][0]  # type: ignore[index]
    found = {
        **dummy.REGISTER,
        "batch": "spring",
        "requests": [{**line, "position": place} for place in range(1001)],
    }
    files.write_json(tmp_path / "reports" / "spring" / "register.json", found)
    rows, told = registers.artifact(tmp_path, "spring")
    assert len(rows) == registers.MOST_SHOWN
    assert "The worst 1000 are shown" in told


def test_the_command_makes_the_pages_and_fails_when_a_batch_cannot_be_read(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from flows.cli.main import app

    (workspace / ".dvc").mkdir()
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(workspace)
    done = CliRunner().invoke(app, ["register", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"]["fail"] == 1
    (workspace / "reports" / "broken").mkdir()
    (workspace / "reports" / "broken" / "register.json").write_text("no JSON")
    done = CliRunner().invoke(app, ["register"])
    assert done.exit_code == 1
    assert "Not readable: broken" in done.output
    assert "reports/index.html" in done.output


def test_a_register_that_is_not_what_it_has_to_be_is_named(tmp_path: Path) -> None:
    for broken in ({"alpha": 2}, {"requests": [{}]}, {"batch": "../etc"}):
        with pytest.raises(EvidenceError, match="register is not what it has to be"):
            schema.checked({**dummy.REGISTER, "batch": "spring", **broken}, "spring")
    with pytest.raises(EvidenceError, match="no request"):
        register_build.of([], [], tmp_path)
    with pytest.raises(AuditError, match="no such file"):
        stored.read(tmp_path)


def test_pages_of_all_batches_say_what_the_register_of_requests_says_is_closed(
    workspace: Path,
) -> None:
    registers.write(workspace)
    assert ",closed," not in (workspace / "reports" / "register.csv").read_text(encoding="utf-8")
    done = registers.write(workspace, closed={("spring", fabricated.PASS), ("autumn", "x")})
    rows = csv.DictReader((workspace / done.table).open(encoding="utf-8-sig"))
    closed = [row for row in rows if "closed" in row.values()]
    assert [fabricated.PASS in row.values() for row in closed] == [True]
    page = (workspace / done.page).read_text(encoding="utf-8")
    assert '<td data-v="closed">Closed</td>' in page
