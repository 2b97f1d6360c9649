"""Make one report of each kind for docs/examples/, from real runs of the pipeline on the embedded
digits.

    python -m benchmarks.examples --work /tmp/examples --out docs/examples

One workspace, one batch of five requests, four runs: the default method with the settings of the
demo, the same with decisions that were made up, the same with a stricter margin, and FCALB as
published. The first report of a kind is kept, so a kind that no request ends in is an error and not
a report made by hand. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.workspace import layout

FILES = ("report.html", "report.pdf", "evidence.json", "letter.html", "letter.pdf", "letter.txt")
BATCH = "examples"
SUBJECTS = {
    "7c9e6679-7425-40de-944b-e07fc1f90ae7": "writer-03",
    "0f8fad5b-d9cb-469f-a165-70867728950e": "writer-14",
    "b2f5ff47-436b-4f1e-8d5a-3c1e9d2a6b70": "writer-28",
    "5a4d3f6e-2b1c-4c8d-9e7f-6a5b4c3d2e1f": "writer-99",
}
"""Requests of whole people; nobody has the last name."""
SINGLE = "c1d9f6a2-8f5e-4a7b-9b3c-2e6d7f8a9b10"
"""A request for a single record: there is too little of it to see."""
KNOWN = {
    "controller": "Example controller",
    "system": "Digit reader (example)",
    "identity_check": "A letter to the address on file, answered with its code (example)",
    "recipients": [{"name": "Example research group", "disclosed": "images of 2025"}],
    "processors": [{"name": "Example hosting company", "task": "stores the images"}],
    "backups": [{"name": "weekly tape (example)", "days": 35}],
    "out_of_scope": [
        {"model": "Mobile reader (example)", "why": "it was trained on bought data only"}
    ],
}
"""What only an organisation knows, made up."""
STRICT = 0.2
"""A margin that so few references cannot decide at: the third run asks for more than they can
show."""
KINDS = ("pass", "inconclusive", "below_detection", "rejected", "erased", "fail")


def main() -> None:
    """Make the workspace, run it, and copy a report of each kind."""
    chosen = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen.add_argument(
        "--work", type=Path, required=True, help="an empty folder for the workspace"
    )
    chosen.add_argument("--out", type=Path, default=Path("docs/examples"))
    options = chosen.parse_args()
    work, out = options.work.resolve(), options.out.resolve()
    tool(work.parent, "init", str(work))
    tool(work, "import", "digits")
    record = single_record(work / "data" / "manifest.csv", "writer-07")
    save(work / "requests" / f"{BATCH}.json", [*map(request, SUBJECTS), request(SINGLE, record)])
    settings = [f"report.{key}={json.dumps(value)}" for key, value in KNOWN.items()]
    reports = kept(run(work, *layout.DEMO, *settings), out, {})
    save(work / "ledger" / "decisions" / f"{BATCH}.json", decisions(work, reports["pass"]))
    run(work)
    copy(work / "reports" / BATCH / reports["pass"], out / "erased")
    save(work / "ledger" / "decisions" / f"{BATCH}.json", {})
    reports = kept(run(work, f"verify.rho0={STRICT}"), out, {**reports, "erased": reports["pass"]})
    published = ("unlearn.method=fcalb_plain", "unlearn.reset=0")
    reports = kept(run(work, "verify.rho0=0.5", *published), out, reports)
    if missing := [kind for kind in KINDS if kind not in reports]:
        raise SystemExit(f"no request ended as {', '.join(missing)}; change the batch")


def request(name: str, record: str | None = None) -> dict[str, Any]:
    """An OpenDSR erasure request, of a whole person or of one record."""
    return {
        "regulation": "gdpr",
        "subject_request_id": name,
        "subject_request_type": "erasure",
        "submitted_time": stamp(datetime.now(UTC) - timedelta(days=12)),
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": SUBJECTS.get(name, "writer-07"),
                "identity_format": "raw",
            }
        ],
        "api_version": "1.0",
        **({"extensions": {"erasure_audit": {"record_ids": [record]}}} if record else {}),
    }


def single_record(manifest: Path, subject: str) -> str:
    """The first record of a subject."""
    import csv

    with manifest.open(encoding="utf-8") as file:
        return next(
            row["record_id"] for row in csv.DictReader(file) if row["subject_id"] == subject
        )


def run(work: Path, *assignments: str) -> Path:
    """Bring the batch up to date and return the folder of its reports."""
    tool(work, "run", BATCH, *(word for text in assignments for word in ("--set", text)))
    return work / "reports" / BATCH


def kept(reports: Path, out: Path, so_far: dict[str, str]) -> dict[str, str]:
    """Copy the first report of each kind that is not there yet; the requests that they are of, by
    kind."""
    for path in sorted(reports.glob("*/evidence.json")):
        kind = json.loads(path.read_text(encoding="utf-8"))["outcome"]
        if kind not in so_far:
            copy(path.parent, out / kind)
            so_far = {**so_far, kind: path.parent.name}
    return so_far


def copy(report: Path, target: Path) -> None:
    """A report's files, and the person's letter where there is one."""
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (report / name).exists():
            shutil.copyfile(report / name, target / name)


def decisions(work: Path, request_id: str) -> dict[str, Any]:
    """Made-up decisions: approved, every copy erased, the recipient told."""
    evidence = json.loads(
        (work / "reports" / BATCH / request_id / "evidence.json").read_text(encoding="utf-8")
    )
    started = datetime.fromisoformat(evidence["provenance"]["started"])
    erased = started + timedelta(days=3)
    entry = {"at": stamp(erased), "by": "A. Example", "request": request_id}
    erased_copies = [
        {
            **entry,
            "store": copy["store"],
            "state": "erased",
            "receipt": "example: line of the log of erasures",
        }
        for copy in evidence["copies"]
        if copy["holds"] != "scores" and copy["kind"] != "backup"
    ]
    waits = [
        {
            **entry,
            "store": copy["store"],
            "state": "expires",
            "expires_on": (erased + timedelta(days=35)).date().isoformat(),
            "receipt": "example: plan",
        }
        for copy in evidence["copies"]
        if copy["kind"] == "backup"
    ]
    approval = {
        **entry,
        "at": stamp(started + timedelta(days=2)),
        "role": "Data protection officer",
        "decision": "approve",
    }
    notices = [
        {**entry, "to": party["name"]}
        for party in (*evidence["recipients"], *evidence["processors"])
    ]
    return {
        "approvals": [{**approval, "comment": "The interval lies within the limits. (Example)"}],
        "erasure": erased_copies + waits,
        "notices": notices,
    }


def stamp(moment: datetime) -> str:
    """RFC 3339, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def save(path: Path, value: Any) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def tool(folder: Path, *words: str) -> None:
    """Run `erasure-audit`."""
    subprocess.run(
        [str(Path(sys.executable).with_name("erasure-audit")), *words], cwd=folder, check=True
    )


if __name__ == "__main__":
    main()
