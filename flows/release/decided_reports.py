"""Makes the reports of an audited batch again, with the decisions on it."""

from __future__ import annotations

from pathlib import Path

from flows.pipeline import stage_runner
from flows.register import recorded
from flows.register.register import Register
from flows.release import approval
from flows.release.workspace_switch import Log
from flows.reports import signing
from flows.workspace import shell, signing_keys
from tasks.common import files
from tasks.requests import decisions


def write(home: Path, copy: Path, register: Register, batch: str, log: Log) -> None:
    """Make the reports of a batch again with the decisions, and sign them if there is a key.

    Args:
        home: the workspace.
        copy: a checkout of the audited batch, in which they are made.
        register: of the workspace.
        batch: its name.
        log: receives the name of each step.
    """
    log("report")
    path = copy / decisions.FOLDER / f"{batch}.json"
    filed = files.read_json(path) if path.exists() else {}
    approvals = approval.all_decisions(
        register, batch, shell.git(copy, "rev-parse", "HEAD^{commit}")
    )
    standing = approval.standing(home, register, batch)
    released = {"released": standing.model} if standing.state in ("approved", "released") else {}
    with_register = recorded.in_decisions(
        {**decisions.EMPTY, **filed}, register, batch, recorded.parties(copy)
    )
    files.write_json(path, {**with_register, **released, "approvals": approvals})
    stage_runner.Runner(copy, 1).run("report")
    key = signing_keys.load_key(home)
    if key is not None:
        log("sign")
        signing.sign(copy, batch, key)
