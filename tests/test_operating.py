"""The README's commands for operating, given one after the other as a reader would, from a file in
the drop folder to an erased and closed request."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import stand_in
from flows.workspace import shell
from tasks.common import files

REQUEST = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
README = Path(__file__).parents[1] / "README.md"


def commands() -> list[str]:
    section = README.read_text(encoding="utf-8").partition("## Operating it")[2]
    block = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[0]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def give(home: Path, command: str) -> str:
    words = shlex.split(command)
    program = Path(sys.executable).with_name(words[0])
    ended = subprocess.run(
        [program, *words[1:]], cwd=home, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}: {ended.stderr}"
    return ended.stdout


def test_the_readmes_commands_lead_from_a_file_to_an_erased_and_closed_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    home = stand_in.world(tmp_path / "home")
    dropped = home / "inbox" / "requests.csv"
    files.write_text(dropped, stand_in.table([stand_in.subject_id(0)], "2026-11-02", [REQUEST]))
    os.utime(dropped, (dropped.stat().st_atime, dropped.stat().st_mtime - 10))

    named = ""
    for command in commands():
        if "approve" in command:
            (case,) = json.loads(give(home, "erasure-audit requests list --json"))
            assert (case["state"], case["verdict"]) == ("awaiting_signoff", "pass")
            named = case["batch"]
        give(home, re.sub(r"20\d\d-\d\d-\d\d", named, command))

    shown = json.loads(give(home, f"erasure-audit requests show {REQUEST} --json"))
    assert [event["kind"] for event in shown["events"] if event["kind"] != "decision"] == [
        *(
            "received",
            "identity_verified",
            "batched",
            "audited",
            "awaiting_signoff",
            "released",
            "erased",
            "closed",
        )
    ]
    assert not dropped.exists()
    assert {f"{state}/{named}" for state in ("audit", "release", "erased")} == set(
        shell.git(home, "tag").split()
    )
    assert (home / "releases" / named / "model.safetensors").is_file()
    assert stand_in.subject_id(0) not in (home / "data" / "manifest.csv").read_text()
    assert "Nothing" in give(home, "erasure-audit requests list") or "No requests" in give(
        home, "erasure-audit requests list"
    )
    evidence = files.read_json(home / "reports" / named / REQUEST / "evidence.json")
    assert [approval["by"] for approval in evidence["approvals"]] == ["Grace Officer"]
    assert {copy["state"] for copy in evidence["copies"] if copy["holds"] != "scores"} == {"erased"}
