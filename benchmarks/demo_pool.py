"""Two batches on one pool, on the embedded data: what the first costs, and what each further one.

A workspace is made in a new folder, with a pool and two batches of one person each. The second
batch trains nothing: it unlearns, scores, judges and writes its report. `make demo-pool` runs it.

Example: python -m benchmarks.demo_pool --folder /tmp/two-batches
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import measure
from flows.pipeline import results
from flows.workspace import layout
from tasks.common import files, settings, stage_cli
from tasks.common.errors import WorkspaceError

PEOPLE = {"first": "writer-11", "second": "writer-31"}
"""Whom each batch forgets: the two people of `make demo`."""
REQUESTS = {
    "first": "b2f5ff47-436b-4f1e-8d5a-3c1e9d2a6b70",
    "second": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
}
SETTINGS = (
    *layout.DEMO,
    "pool.folds=4",
    "references.mode=pool",
    "references.with_from=references/pool",
    "references.with_blocks=[0]",
    "references.without_blocks=[]",
    "references.seeds_per_block=1",
)


def main(
    folder: Path | None = None,
    blocks: int = 8,
    out: Path = measure.RESULTS,
    page: Path | None = None,
) -> None:
    """Make the workspace, the pool and both batches, and say what each took.

    `folder` is new; without it one is made where temporary files are. `blocks` is of the pool, five
    models each.

    Example: python -m benchmarks.demo_pool --blocks 8
    """
    home = folder or Path(tempfile.mkdtemp(prefix="erasure-audit-")) / "pool"
    if home.exists():
        raise WorkspaceError(f"{home} exists; name a folder that does not")
    spent = {"workspace and data": _erasure_audit(home.parent, "init", str(home))}
    _erasure_audit(home, "import", "digits")
    settings.assign(home / "params.yaml", list(SETTINGS))
    for batch, person in PEOPLE.items():
        files.write_json(home / "requests" / f"{batch}.json", [_request(batch, person)])
    settings.assign(home / "params.yaml", ['batch="first"'])
    spent[f"pool of {5 * blocks} models"] = _erasure_audit(home, "pool", "--blocks", str(blocks))
    for batch in PEOPLE:
        spent[f"{batch} batch"] = _erasure_audit(home, "run", batch)
        for result in results.read(home, batch):
            stage_cli.say(f"{batch}: {PEOPLE[batch]} {result.ending}, ρ {result.interval}")
    rows = [[name, f"{one.seconds:.0f}", f"{one.cpu:.0f}"] for name, one in spent.items()]
    text = measure.table(["step", "seconds", "processor seconds"], rows)
    command = f"python -m benchmarks.demo_pool --blocks {blocks}"
    figures = {name: {"seconds": one.seconds, "cpu": one.cpu} for name, one in spent.items()}
    files.write_json(
        out / "demo-pool.json",
        {"command": command, "machine": measure.machine(), "steps": figures},
    )
    stage_cli.say(f"{text}\n\nThe reports are in {home / 'reports'}.")
    if page:
        told = f"{text}\n\n`{command}`. {measure.told_of(measure.machine())}."
        measure.insert(page, "demo pool", told)


def _erasure_audit(where: Path, *words: str) -> measure.Spent:
    """One command in a process of its own, and what it took."""
    stage_cli.say(f"erasure-audit {' '.join(words)}")
    return measure.command([str(Path(sys.executable).with_name("erasure-audit")), *words], where)


def _request(batch: str, person: str) -> dict[str, object]:
    """An erasure request as OpenDSR has it."""
    identity = {
        "identity_type": "controller_customer_id",
        "identity_value": person,
        "identity_format": "raw",
    }
    return {
        "regulation": "gdpr",
        "subject_request_id": REQUESTS[batch],
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-02T09:15:00Z",
        "subject_identities": [identity],
        "api_version": "1.0",
    }


if __name__ == "__main__":
    stage_cli.run(main)
