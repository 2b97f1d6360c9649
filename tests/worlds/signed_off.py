"""A workspace with an audited batch that waits for its sign-off: real files and hashes, stages
without work."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from flows.pipeline import close_batch
from flows.register.register import Intake, Register, State
from flows.workspace import checkouts, layout, shell
from tasks.common import files, settings
from tasks.requests import pseudonyms

BATCH = "2026-11-21"
PASS = "11111111-aaaa-4aaa-8aaa-000000000001"
OTHER = "22222222-bbbb-4bbb-8bbb-000000000002"
ASIDE = "33333333-cccc-4ccc-8ccc-000000000003"
"""A request of somebody whom no model saw."""
KEY = "the key of pseudonyms of this world"
SUBJECTS = {PASS: "p0", OTHER: "p1", ASIDE: "p9"}
ROLES = ["training"] * 7 + ["calibration", "test", "control"]

REPORT = """
import json, pathlib, sys

batch = sys.argv[1]
filed = json.loads(pathlib.Path(f"ledger/decisions/{batch}.json").read_text())
decided, known = filed["approvals"], filed.get("registered", {})
verdicts = json.loads(pathlib.Path("artifacts/verify/verdicts.json").read_text())
for request, facts in verdicts.items():
    approvals = [entry for entry in decided if entry.get("request") in (None, request)]
    folder = pathlib.Path(f"reports/{batch}/{request}")
    folder.mkdir(parents=True, exist_ok=True)
    evidence = {
        "request": {"id": request, "code": facts.get("code")},
        "status": facts["status"],
        "reason": "because",
        "verdict": facts["verdict"],
        "approvals": approvals,
        "advice": [],
        **known.get(request, {}),
    }
    (folder / "evidence.json").write_text(json.dumps(evidence))
    comments = " ".join(entry["by"] + ": " + entry["comment"] for entry in approvals)
    (folder / "report.html").write_text("<p>" + comments + "</p>")
"""

PIPELINE = """
stages:
  split: {cmd: "true", deps: [data/manifest.csv], outs: [artifacts/split.csv]}
  train: {cmd: "true", deps: [artifacts/split.csv], outs: [artifacts/train/0]}
  resolve: {cmd: "true", deps: ["requests/${batch}.json"], outs: [artifacts/resolve/forget.csv]}
  unlearn: {cmd: "true", deps: [artifacts/resolve/forget.csv], outs: [artifacts/unlearn]}
  retrain: {cmd: "true", deps: [artifacts/resolve/forget.csv], outs: [artifacts/retrain/0]}
  score: {cmd: "true", deps: [artifacts/unlearn], outs: [artifacts/score/lineage.json]}
  verify:
    cmd: "true"
    deps: [artifacts/score/lineage.json]
    outs: [artifacts/verify/verdicts.json]
  report:
    cmd: python report.py ${batch}
    deps: [artifacts/verify/verdicts.json, "ledger/decisions/${batch}.json"]
    outs: [{"reports/${batch}": {cache: false}}]
"""


def make(home: Path, verdicts: dict[str, str], *, remote: bool = False) -> Path:
    """The workspace on its branch, the batch on its own; the register knows that the batch waits.

    Args:
        home: a new folder.
        verdicts: by request; ASIDE's is that no model saw the records, whatever is given.
        remote: whether DVC has one, in a folder beside.
    """
    home.mkdir(parents=True)
    shell.git(home, "init", "--quiet", "--initial-branch", "main")
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    shell.dvc(home, "init", "--quiet")
    (home / ".dvc" / "config").write_text(layout.CONFIG)
    if remote:
        shell.dvc(home, "remote", "add", "--default", "store", str(home.parent / "store"))
    (home / ".gitignore").write_text("\n".join(layout.IGNORED) + "\n")
    (home / "report.py").write_text(REPORT)
    (home / "dvc.yaml").write_text(PIPELINE)
    (home / "params.yaml").write_text(settings.defaults_yaml())
    settings.assign(
        home / "params.yaml", ["references.seeds_per_block=3", "references.without_blocks=[0]"]
    )
    settings.assign(
        home / "params.yaml", ["references.with_blocks=[0]", "operate.erase_after_release=false"]
    )
    _data(home / "data")
    shell.dvc(home, "add", "--quiet", "data")
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "workspace")
    (home / "keys").mkdir()
    (home / pseudonyms.FILE).touch(mode=0o600)
    (home / pseudonyms.FILE).write_text(KEY)
    register = Register(home)
    _audit(home, verdicts)
    ids = list(verdicts)
    for request in ids:
        intake = Intake(request, "gdpr", "2026-11-20T09:00:00Z", (identity_of(request),))
        register.receive(intake, "intake", "test")
    register.move(ids, State.IDENTITY_VERIFIED, "officer", how="passport")
    register.collect(BATCH, "nightly")
    register.move(ids, State.AUDITED, "nightly", verdicts=_verdicts(verdicts))
    register.move(ids, State.AWAITING_SIGNOFF, "nightly")
    register.close()
    return home


def _verdicts(given: dict[str, str]) -> dict[str, str]:
    return {
        request: "not_in_training" if request == ASIDE else verdict
        for request, verdict in given.items()
    }


def _data(data: Path) -> None:
    rows = [["record_id", "subject_id", "label", "path", "sha256"]]
    for number, person in enumerate(f"p{n}" for n in range(10)):
        for label in (0, 1):
            content = f"picture of {person} {label}".encode()
            path = data / "images" / f"{number}-{label}.png"
            files.write_bytes(path, content)
            sha256 = hashlib.sha256(content).hexdigest()
            rows.append(
                [f"r{number}-{label}", person, str(label), f"images/{number}-{label}.png", sha256]
            )
    files.write_text(data / "manifest.csv", _csv(rows))
    mails = [["identity_type", "identity_value", "subject_id"]]
    mails += [["email", f"mail{n}@example.org", f"p{n}"] for n in range(10)]
    files.write_text(data / "identities.csv", _csv(mails))


def _audit(home: Path, verdicts: dict[str, str]) -> None:
    """The batch as its audit left it: a branch, a commit, a tag; home's own checkout knows nothing
    of it."""
    workspace = checkouts.open(home, BATCH)
    settings.assign(workspace / "params.yaml", [f'batch="{BATCH}"'])
    files.write_json(workspace / f"requests/{BATCH}.json", [request_of(one) for one in verdicts])
    roles = [[f"r{n}-{label}", ROLES[n]] for n in range(10) for label in (0, 1)]
    files.write_text(workspace / "artifacts/split.csv", _csv([["record_id", "role"], *roles]))
    gone = [
        [f"r{SUBJECTS[one][1]}-{label}", one]
        for one in verdicts
        if one != ASIDE
        for label in (0, 1)
    ]
    files.write_text(
        workspace / "artifacts/resolve/forget.csv", _csv([["record_id", "request_id"], *gone])
    )
    for folder, names in {"train/0": range(3), "retrain/0": range(3)}.items():
        for number in names:
            _model(
                workspace / f"artifacts/{folder}/seed-{number}.safetensors", f"{folder} {number}"
            )
    _model(workspace / "artifacts/unlearn/unlearned.safetensors", "unlearned")
    lineage = {
        "models": [
            {
                "role": role,
                "path": path.relative_to(workspace).as_posix(),
                "weights_sha256": files.sha256(path),
            }
            for role, pattern in (
                ("original", "train/0/seed-0"),
                ("unlearned", "unlearn/*"),
                ("without", "retrain/0/*"),
            )
            for path in sorted((workspace / "artifacts").glob(f"{pattern}.safetensors"))
        ],
        "batch": {"forgotten": len(gone), "retained": 14 - len(gone)},
        "history": {"unlearnings": 0, "forgotten": 0, "trained": 14},
    }
    files.write_json(workspace / "artifacts/score/lineage.json", lineage)
    judged: dict[str, Any] = {
        one: {"status": "rejected", "verdict": "inconclusive", "code": "not_in_training"}
        if one == ASIDE
        else {"status": "audited", "verdict": verdict}
        for one, verdict in verdicts.items()
    }
    files.write_json(workspace / "artifacts/verify/verdicts.json", judged)
    files.write_json(workspace / f"ledger/decisions/{BATCH}.json", {"approvals": []})
    stages = ("split", "train", "resolve", "unlearn", "retrain", "score", "verify")
    shell.dvc(workspace, "commit", "--quiet", "--force", *stages)
    shell.dvc(workspace, "repro", "--quiet", "--single-item", "report")
    close_batch.close(workspace, BATCH)
    checkouts.close(home, BATCH)


def request_of(request: str) -> dict[str, Any]:
    """The request as OpenDSR writes it."""
    identity = {"identity_type": "controller_customer_id", "identity_value": SUBJECTS[request]}
    return {
        "regulation": "gdpr",
        "subject_request_id": request,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-20T09:00:00Z",
        "subject_identities": [{**identity, "identity_format": "raw"}],
        "api_version": "1.0",
    }


def identity_of(request: str) -> dict[str, str]:
    """The identity of a request as the register keeps it."""
    kind, key = "controller_customer_id", pseudonyms.PseudonymKey(KEY.encode())
    name = key.of(kind, SUBJECTS.get(request, request))
    return {"identity_type": kind, "identity_value": name, "identity_format": "hmac-sha256"}


def copy(source: Path, target: Path) -> Path:
    """A workspace of its own with the same state."""
    shutil.copytree(source, target, symlinks=True)
    return target


def snapshot(home: Path) -> dict[str, Any]:
    """Everything that a person sees of a workspace: commit, index, tags, and every file that is no
    tool's own."""
    own = (
        ".git",
        ".dvc/cache",
        ".dvc/tmp",
        ".register",
        "keys/chain.end",
        checkouts.FOLDER,
        ".prefect",
        "__pycache__",
    )
    there = {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file()
        and not any(path.relative_to(home).as_posix().startswith(name) for name in own)
    }
    return {
        "files": there,
        "head": shell.git(home, "rev-parse", "HEAD"),
        "branch": shell.git(home, "symbolic-ref", "HEAD"),
        "status": shell.git(home, "status", "--porcelain"),
        "index": shell.git(home, "ls-files", "--stage"),
        "tags": shell.git(home, "tag", "--list"),
        "worktrees": shell.git(home, "worktree", "list").count("\n"),
    }


def _model(path: Path, weights: str) -> None:
    files.write_bytes(path, weights.encode() * 50)
    files.write_json(
        path.with_suffix(".json"), {"seconds": 1.0, "weights_sha256": files.sha256(path)}
    )


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def evidence(home: Path, revision: str, request: str = PASS) -> dict[str, Any]:
    """The evidence on a request as a commit has it."""
    found: dict[str, Any] = json.loads(
        shell.git(home, "show", f"{revision}:./reports/{BATCH}/{request}/evidence.json")
    )
    return found
