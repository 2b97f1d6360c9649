"""The command line as a user meets it: processes, exit codes, one line per error."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.pipeline import close_batch, provenance
from flows.workspace import dvc_graph, shell
from tasks.common import files, settings
from tests.worlds import dummy

COMMANDS = [
    *(
        "init",
        "import",
        "demo",
        "run",
        "status",
        "show",
        "reproduce",
        "register",
        "sign",
        "verify-report",
    ),
    *(
        "nightly",
        "watch",
        "reaudit",
        "approve",
        "reject",
        "release",
        "releases",
        "finalize",
        "erase",
        "serve",
    ),
    *("intake", "requests", "agent"),
]
GROUPS = ("import", "intake", "requests", "agent")
SOURCES = ["digits", "idx", "npz", "folder", "torchvision"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which nothing is stale."""
    home = dummy.make(tmp_path_factory.mktemp("cli") / "workspace")
    provenance.write(home, settings.Settings())
    shell.dvc(home, "repro", "--quiet")
    return home


@pytest.fixture
def home(done: Path, tmp_path: Path) -> Path:
    return dummy.copy(done, tmp_path / "workspace")


def one_line_of_error(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_help_loads_nothing_heavy_and_no_commands_of_groups(tmp_path: Path) -> None:
    """So it takes 0.25 s on an idle machine."""
    heavy = ("prefect", "dvc", "torch", "pandas", "pydantic")
    groups = tuple(f"flows.cli.{name}" for name in ("import_", "requests", "letters", "agents"))
    code = (
        "import sys\nfrom flows.cli.main import app\napp(['--help'], standalone_mode=False)\n"
        f"print([module for module in {heavy + groups} if module in sys.modules])"
    )
    command = [dummy.invocation()[0], "-c", code]
    ended = subprocess.run(
        command, env=dummy.location(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    output, loaded = ended.stdout.rstrip().rsplit("\n", 1)
    assert all(name in output for name in COMMANDS)
    assert loaded == "[]"


@pytest.mark.parametrize(
    "command", [*([name] for name in COMMANDS), *(["import", source] for source in SOURCES)]
)
def test_every_command_has_help_with_an_example(tmp_path: Path, command: list[str]) -> None:
    ended = dummy.command(tmp_path, *command, "--help")
    assert ended.returncode == 0
    example = ended.stdout.partition("Example: ")[2]
    assert command[-1] in GROUPS or f"erasure-audit {' '.join(command)}" in example


def test_with_nothing_stale_a_run_shows_the_verdicts_and_starts_no_prefect(home: Path) -> None:
    ended = dummy.command(home, "run")
    assert ended.returncode == 0
    assert "Nothing is stale" in ended.stderr
    assert "Prefect" not in ended.stderr
    assert all(request in ended.stdout for request in dummy.REQUESTS)
    assert "0.08 (-0.20 … 0.35)" in ended.stdout
    assert not (home / ".prefect").exists()


def test_a_program_gets_json_and_a_commit_gets_a_tag(home: Path) -> None:
    output = json.loads(dummy.command(home, "run", "--json", "--commit").stdout)
    assert output["tag"] == close_batch.tag_of("demo") == "audit/demo"
    assert [request["verdict"] for request in output["requests"]] == ["fail", "pass"]
    again = dummy.command(home, "reproduce", "demo", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["holds"] is True

    (home / "reports" / "demo" / "index.html").write_text("pass")
    tampered = dummy.command(home, "reproduce", "demo")
    assert tampered.returncode == 1
    assert "DOES NOT HOLD" in tampered.stdout


def test_status_names_the_batch_and_what_is_stale(home: Path) -> None:
    assert json.loads(dummy.command(home, "status", "--json").stdout)["stale"] == []
    (home / "requests" / "demo.json").write_text("[1]")
    output = dummy.command(home / "requests", "status").stdout
    assert "Batch demo" in output
    assert "Stale: score" in output


def test_status_says_what_is_missing_before_a_batch_can_be_run_and_what_to_do(home: Path) -> None:
    (home / "requests" / "demo.json").unlink()
    output = dummy.command(home, "status").stdout
    assert "Nothing to run yet: there is no requests/demo.json" in output
    assert "Stale" not in output
    shutil.rmtree(home / "data")
    (home / "data.dvc").unlink()
    output = dummy.command(home, "status").stdout
    assert "no records yet; see `erasure-audit import --help`" in output


def test_a_request_is_shown_by_the_beginning_of_its_id(home: Path) -> None:
    output = dummy.command(home, "show", "2222").stdout
    assert "pass" in output.splitlines()[0]
    assert f"reports/demo/{dummy.REQUESTS[1]}/report.pdf" in output
    assert json.loads(dummy.command(home, "show", "2222", "--json").stdout)["verdict"] == "pass"
    assert "see `erasure-audit status`" in one_line_of_error(dummy.command(home, "show", "9999"))
    assert "expected the id" in one_line_of_error(dummy.command(home, "show", "../.."))


def test_a_failing_stage_ends_the_command_with_its_message(home: Path) -> None:
    (home / "fail-score").touch()
    ended = dummy.command(home, "run", "second", "--set", "unlearn.method=none")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "error: score: record r7: got label 12, expected 0 to 9; mend the manifest"
    )
    assert "Setting unlearn.method = none" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert settings.load(home / "params.yaml").unlearn.method == "none"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "none"], "Batches here: demo, second"),
        (["run", "--set", "unlearn.methd=none"], "unlearn.methd: unknown key"),
        (["run", "--set", "verify.alpha=7"], "verify.alpha: got 7"),
        (["import", "digits"], "--replace"),
        (["init", "."], "choose a new folder"),
        (["reproduce", "demo"], "Closed batches here: none"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    home: Path, arguments: list[str], words: str
) -> None:
    before = {
        path: path.read_bytes()
        for path in (home / "params.yaml", home / "data.dvc", home / "dvc.lock")
    }
    assert words in one_line_of_error(dummy.command(home, *arguments))
    assert before == {path: path.read_bytes() for path in before}


def test_a_wrong_option_is_explained_without_a_traceback(home: Path) -> None:
    ended = dummy.command(home, "run", "--nope")
    assert ended.returncode == 2
    assert "No such option" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_import_writes_the_facts_of_the_data_into_the_settings(tmp_path: Path) -> None:
    home = tmp_path / "new"
    assert dummy.command(tmp_path, "init", "new").returncode == 0
    ended = dummy.command(home, "import", "digits", "--writers", "3")
    assert ended.returncode == 0, ended.stderr
    assert "of 3 subjects in 10 classes" in ended.stderr
    assert settings.load(home / "params.yaml").data == settings.Data(
        classes=10, channels=1, image_size=16
    )
    assert (home / "data.dvc").exists()
    assert files.sha256(home / "data" / "manifest.csv")
    assert "data.dvc" not in dvc_graph.stale(home)
