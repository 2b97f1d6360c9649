"""A tiny workspace with the shape of the real one: the same settings and stage names, and stages
that take no time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.workspace import layout, shell
from tasks.common import settings

REQUESTS = ["11111111-aaaa-4aaa-8aaa-000000000001", "22222222-bbbb-4bbb-8bbb-000000000002"]

REGISTER = {
    "schema_version": 2,
    "started": "2026-11-21T01:02:03Z",
    "tool_version": "0.1.0",
    "controller": "Example Clinic",
    "system": "Digit reader",
    "mode": "references",
    "alpha": 0.05,
    "method": "fcalb",
    "cost": {"train": 6.2, "unlearn": 0.5, "retrain": 6.1, "references": 40.0},
    "passes": 1,
    "passes_that_hold": 1,
    "requests": [
        {
            "request_id": request,
            "position": index + 1,
            "folder": request,
            "status": "audited",
            "progress": "awaiting_signoff",
            "test": "references",
            "verdict": verdict,
            "outcome": verdict,
            "register": {"q_pass": 0.01 if verdict == "pass" else 1.0, "holds": verdict == "pass"},
            "reason": "because",
            "regulation": "gdpr",
            "received": "2026-11-20T08:00:00Z",
            "subject_pseudonym": "0123456789ab",
            "records": 38,
            "deadline": "2026-12-21",
            "days_left": 30,
            "residual_influence": {"estimate": 0.08, "low": -0.2, "high": 0.35},
            "sha256": {},
        }
        for index, (request, verdict) in enumerate(zip(REQUESTS, ("fail", "pass"), strict=True))
    ],
}
"""What the stage `report` says of these requests."""

STAGE = (
    """
import json, os, pathlib, sys, time

name, out, *deps = sys.argv[1:]
for step in (1, 2, 3):
    print(f"{name}: step {step} of 3", flush=True)
    time.sleep(float(os.environ.get("DUMMY_PAUSE", "0")))
with open(os.environ.get("DUMMY_LOG", os.devnull), "a") as log:
    log.write(name + "\\n")
if os.path.exists("fail-" + name):
    print("error: record r7: got label 12, expected 0 to 9; mend the manifest", file=sys.stderr)
    raise SystemExit(1)
if os.path.exists("crash-" + name):
    raise ZeroDivisionError("by chance")
files = []
for path in map(pathlib.Path, deps):
    below = [path] if path.is_file() else sorted(path.rglob("*"))
    files += [file for file in below if file.is_file()]
seen = name + ": " + " ".join(str(sum(file.read_bytes())) for file in files)
if os.path.exists("other-machine"):
    seen += " other last bits"
target = pathlib.Path(out)
if name == "verify":
    estimate = 0.08 + 0.01 * os.path.exists("other-machine")
    influence = {"estimate": estimate, "low": -0.2, "high": 0.35}
    verdict = "fail" if os.path.exists("other-verdict") else "pass"
    entry = {"verdict": verdict, "residual_influence": influence}
    seen = json.dumps({"seen": seen, "requests": {"REQUEST-1": entry}})
if name == "report":
    for number, request in enumerate(REQUEST_IDS):
        folder = target / request
        folder.mkdir(parents=True, exist_ok=True)
        evidence = {
            "request": {"id": request},
            "verdict": "pass" if number else "fail",
            "reason": "because",
            "status": "audited",
            "seen": seen,
            "self_check": {"original_caught": True, "retrain_cleared": None},
            "residual_influence": {"estimate": 0.08, "low": -0.2, "high": 0.35},
            "detectability": 6.1,
            "accuracy": {"original": {"forget": 0.9, "retain": 0.8, "control": None}},
        }
        (folder / "evidence.json").write_text(json.dumps(evidence))
        (folder / "report.html").write_text("<p>pass</p>")
    (target / "index.html").write_text(seen)
    (target / "register.json").write_text(json.dumps({**REGISTER, "batch": target.name}))
else:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(seen)
""".replace("REQUEST_IDS", repr(REQUESTS))
    .replace("REQUEST-1", REQUESTS[0])
    .replace("REGISTER", repr(REGISTER))
)

PIPELINE = """
stages:
  check:
    desc: Are the data what they have to be?
    cmd: python stage.py check artifacts/check.txt data
    deps: [data]
    outs: [artifacts/check.txt]
  train:
    matrix: {block: "${references.with_blocks}"}
    cmd: >-
      python stage.py train${item.block} artifacts/train/${item.block}/model.txt
      artifacts/check.txt
    deps: [artifacts/check.txt]
    params: [seed]
    outs: ["artifacts/train/${item.block}"]
    meta: {agent: gpu}
  score:
    cmd: python stage.py score artifacts/score/scores.txt artifacts/train requests/${batch}.json
    deps: [artifacts/train, "requests/${batch}.json"]
    outs: [artifacts/score/scores.txt]
  verify:
    cmd: python stage.py verify artifacts/verify/verdicts.json artifacts/score/scores.txt
    deps: [artifacts/score/scores.txt]
    params: [verify]
    outs: [artifacts/verify/verdicts.json]
  report:
    cmd: python stage.py report reports/${batch} artifacts/verify/verdicts.json
    deps: [artifacts/verify/verdicts.json, "ledger/batches/${batch}.json"]
    outs:
      - reports/${batch}: {cache: false}
"""

STAGES = ["check", "train@0", "train@1", "score", "verify", "report"]


def make(folder: Path) -> Path:
    """A workspace in a git repository, nothing run and nothing committed yet."""
    folder.mkdir(parents=True)
    shell.git(folder, "init", "--quiet")
    shell.git(folder, "config", "user.email", "auditor@example.org")
    shell.git(folder, "config", "user.name", "Auditor")
    shell.dvc(folder, "init", "--quiet")
    (folder / ".dvc" / "config").write_text(layout.CONFIG)
    (folder / ".gitignore").write_text("/data\n/artifacts\n/.prefect\n")
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(settings.defaults_yaml())
    (folder / "requests").mkdir()
    for batch in ("demo", "second"):
        (folder / "requests" / f"{batch}.json").write_text(json.dumps([batch]))
    (folder / "data").mkdir()
    (folder / "data" / "manifest.csv").write_text("record_id\nr1\n")
    shell.dvc(folder, "add", "--quiet", "data")
    shell.git(folder, "add", ".")
    shell.git(folder, "commit", "--quiet", "-m", "workspace")
    return folder


def copy(source: Path, target: Path) -> Path:
    """A workspace of its own with the same state."""
    shutil.copytree(source, target, symlinks=True)
    return target


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `erasure-audit` as a process of its own in the workspace."""
    return subprocess.run(
        invocation(*arguments),
        cwd=folder,
        env={**os.environ, **location(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def invocation(*arguments: str) -> list[str]:
    """The command line of `erasure-audit`."""
    return [sys.executable, "-c", "from flows.cli.main import main; main()", *arguments]


def location() -> dict[str, str]:
    """Where Python finds the project, installed or not."""
    return {"PYTHONPATH": str(Path(__file__).parents[2])}


def log_of(path: Path) -> list[str]:
    """The stages that did something, in order; they write to the file that DUMMY_LOG names."""
    return path.read_text().split() if path.exists() else []
