"""Stage: judge the records and the batch's requests by rules.

A fault of the data stops the audit before anything is written. A fault of a request is recorded
here, and `resolve` sets the request aside. The rules are `tasks.data.rules`; Great Expectations
reports on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.common import files, settings, stage_cli
from tasks.common.errors import DataError
from tasks.common.language import say, with_sentences
from tasks.data import expectations, image_pack, near_duplicates, records, rules
from tasks.data.people import People
from tasks.data.rules import Rule
from tasks.requests.directory import Directory, read_directory
from tasks.requests.opendsr import RefusedEntry, Request, read_batch

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_CLASS = 0.1
"""Least size of a class, as a share of the largest one, without a warning."""


def check(
    data: Path = Path("data"),
    pack: Path = Path("artifacts/pack"),
    requests: Path = Path("requests/demo.json"),
    params: Path = Path("params.yaml"),
    out: Path = Path("artifacts/check"),
) -> None:
    """Check the data set and the batch, and write data.json and requests.json.

    Raises:
        DataError: the data are at fault, or were not packed; names the records, and nothing is
            written.
        RequestError: the batch is empty or cannot be read.
    """
    classes = settings.load(params).data.classes
    entries = read_batch(requests)
    table = records.read_table(data)
    seen = image_pack.read_files(pack, data, len(table))
    suite, facts = data_suite(table, classes), data_facts(table, data, seen)
    passed = expectations.validate(facts, suite, "manifest")
    refuse_faults(facts, suite, passed)
    manifest = records.typed(table)
    findings = [
        _finding(rule, ok, rule.broken(facts), records=_first(manifest, rule.broken(facts)))
        for rule, ok in zip(suite, passed, strict=True)
    ]
    asked = request_findings(entries, manifest, read_directory(data, manifest), seen)
    report = data_report(manifest, findings, files.sha256(data / "manifest.csv"))
    report["class_names"] = class_names(data, classes)
    files.write_json(out / "data.json", with_sentences(report))
    known_people = data / "identities.csv"
    identities = files.sha256(known_people) if known_people.exists() else None
    batch = {"checks": asked, "requests": len(entries), "identities_sha256": identities}
    files.write_json(out / "requests.json", with_sentences(batch))
    for line in findings + asked:
        if not line["passed"]:
            stage_cli.say(f"warning: not so: {line['sentence']}")


def data_report(
    manifest: pd.DataFrame, findings: list[dict[str, Any]], digest: str
) -> dict[str, Any]:
    """The content of data.json; depends on the data only."""
    counts = manifest["label"].value_counts().sort_index()
    return {
        "checks": findings,
        "records": len(manifest),
        "subjects": int(manifest["subject_id"].nunique()),
        "classes": {str(label): int(number) for label, number in counts.items()},
        "manifest_sha256": digest,
    }


def class_names(data: Path, classes: int) -> list[str]:
    """What the classes are called, by their number, as the import wrote it into `dataset.json`;
    their numbers where there is no such file or it is of another number of classes.

    Raises:
        AuditError: the file is no JSON.
    """
    path = data / "dataset.json"
    names = files.read_json(path).get("class_names", []) if path.exists() else []
    return [str(name) for name in (names if len(names) == classes else range(classes))]


def data_facts(table: pd.DataFrame, folder: Path, seen: image_pack.PackedFiles) -> pd.DataFrame:
    """The manifest beside what was found out about it, a column for each rule that needs one.

    Args:
        table: n records as strings.
        folder: the data folder.
        seen: what the image files are.
    """
    import pandas as pd

    label = pd.to_numeric(table["label"], errors="coerce").fillna(-1).astype(np.int64)
    counts = label.map(label.value_counts())
    return rules.facts(table, folder).assign(
        label_number=label,
        class_share=counts / counts.max(),
        file_hash=seen.same,
        file_decodes=seen.decodes | ~seen.readable,
    )


def data_suite(table: pd.DataFrame, classes: int) -> tuple[Rule, ...]:
    """The rules for the manifest and its files.

    Args:
        table: n records as strings.
        classes: number of classes that the settings name.
    """
    present = set(table["label"].tolist())
    absent = [str(label) for label in range(classes) if str(label) not in present]
    return (
        *rules.of_manifest(table),
        Rule(
            "label_known",
            say(
                "label is one of the classes 0 … {last} of the setting data.classes",
                last=classes - 1,
            ),
            "label_number",
            between=(0, classes - 1),
        ),
        Rule(
            "file_hash",
            say(
                "every image file is there and has the SHA-256 of the manifest (if not: `dvc "
                "checkout data.dvc`)"
            ),
            "file_hash",
            values=(True,),
        ),
        Rule(
            "file_decodes",
            say(
                "every image file decodes whole (if not it is truncated or no image: restore it "
                "or remove its record)"
            ),
            "file_decodes",
            values=(True,),
        ),
        Rule(
            "classes_present",
            say("every class has records (without: {classes})", classes=", ".join(absent[:20]))
            if absent
            else say("every class has records"),
            "label_number",
            "warning",
            covers=tuple(range(classes)),
        ),
        Rule(
            "class_balance",
            say(
                "the smallest class has at least {share:.0%} of the largest one's records",
                share=SMALLEST_CLASS,
            ),
            "class_share",
            "warning",
            between=(SMALLEST_CLASS, None),
        ),
    )


def refuse_faults(facts: pd.DataFrame, suite: Sequence[Rule], passed: Sequence[bool]) -> None:
    """Raise `DataError` with every error found, the records named."""
    faults = [
        f"{records.name_records(facts, rule.broken(facts))}: expected that {rule.sentence}"
        for rule, ok in zip(suite, passed, strict=True)
        if not ok and rule.severity == "error"
    ]
    if faults:
        raise DataError(
            "manifest.csv and its images: " + "; ".join(faults) + ". Nothing was written"
        )


def request_findings(
    entries: list[Request | RefusedEntry],
    manifest: pd.DataFrame,
    directory: Directory,
    seen: image_pack.PackedFiles,
) -> list[dict[str, Any]]:
    """The suite over the batch, as findings for requests.json."""
    people = People(manifest, directory)
    meant = [_rows_meant(entry, people) for entry in entries]
    facts = request_facts(entries, meant)
    passed = expectations.validate(facts, REQUEST_SUITE, "requests")
    ids = facts["request_id"].to_numpy()
    findings = [
        _finding(
            rule,
            ok,
            rule.broken(facts),
            requests=[str(request) for request in ids[rule.broken(facts)]],
        )
        for rule, ok in zip(REQUEST_SUITE, passed, strict=True)
    ]
    return [*findings, near_duplicate_finding(entries, meant, manifest, seen)]


REQUEST_SUITE = tuple(
    Rule(name, sentence, name, values=(True,))
    for name, sentence in {
        "request_form": say("every request is an OpenDSR erasure request with an id of its own"),
        "request_subject_known": say(
            "every well-formed request names one data subject of the data set"
        ),
        "request_records_known": say("single records that a request names are its subject's"),
        "request_once": say("no record is asked for twice in the batch"),
    }.items()
)
"""The rules for a batch; a fault sets the request aside. Each has a column of `request_facts`."""


def request_facts(
    entries: list[Request | RefusedEntry], meant: list[NDArray[np.intp] | None]
) -> pd.DataFrame:
    """A row per entry: is it well-formed, known, asked once?

    Args:
        entries: the batch.
        meant: rows of the manifest that each names, as `_rows_meant` gives them.
    """
    import pandas as pd

    formed = np.array([isinstance(entry, Request) for entry in entries])
    has_rows = np.array([rows is not None for rows in meant])
    once, taken = np.ones(len(entries), bool), set[int]()
    for number, rows in enumerate(meant):
        asked = set() if rows is None else set(rows.tolist())
        once[number] = taken.isdisjoint(asked)
        taken |= asked
    return pd.DataFrame(
        {
            "request_id": [entry.request_id for entry in entries],
            "request_form": formed,
            "request_subject_known": ~formed | has_rows,
            "request_records_known": [rows is None or len(rows) > 0 for rows in meant],
            "request_once": once,
        }
    )


def _rows_meant(entry: Request | RefusedEntry, people: People) -> NDArray[np.intp] | None:
    """Rows of the manifest that a request names; None without a known subject, none if it names
    other records."""
    if isinstance(entry, RefusedEntry):
        return None
    selection = people.select(entry)
    return None if selection.subject_id is None else selection.rows


def near_duplicate_finding(
    entries: list[Request | RefusedEntry],
    meant: list[NDArray[np.intp] | None],
    manifest: pd.DataFrame,
    seen: image_pack.PackedFiles,
) -> dict[str, Any]:
    """A warning for records of another subject that look the same as one to be forgotten: those
    stay in the model.

    Returns:
        The finding; `records` are the other subjects' records.
    """
    import pandas as pd

    subject, _ = pd.factorize(manifest["subject_id"])
    of_request = np.full(len(manifest), -1, np.int64)
    for number, rows in enumerate(meant):
        if rows is not None:
            of_request[rows] = np.where(of_request[rows] < 0, number, of_request[rows])
    content, _ = pd.factorize(manifest["sha256"])  # that of the files: the data passed
    named, other = near_duplicates.twins(
        np.flatnonzero(of_request >= 0), subject, content, seen.thumbs
    )
    bad = np.zeros(len(manifest), bool)
    bad[other] = True
    concerned = [entries[number].request_id for number in np.unique(of_request[named])]
    sentence = say("no record of another data subject looks the same as one to be forgotten")
    if len(other):
        sentence = say(
            "no record of another data subject looks the same as one to be forgotten ({count} do; "
            "they stay in the "
            "data and the model unless they are asked for, too)",
            count=bad.sum(),
        )
    facts = {
        "name": "near_duplicates",
        "sentence": sentence,
        "severity": "warning",
        "passed": not len(other),
    }
    return facts | {
        "records": _first(manifest, bad),
        "count": int(bad.sum()),
        "requests": concerned,
    }


def _finding(
    rule: Rule, passed: bool, broken: NDArray[np.bool_], **named: list[str]
) -> dict[str, Any]:
    facts = {
        "name": rule.name,
        "sentence": rule.sentence,
        "severity": rule.severity,
        "passed": passed,
    }
    return facts | {"records": [], "count": int(broken.sum())} | named


def _first(manifest: pd.DataFrame, bad: NDArray[np.bool_]) -> list[str]:
    return [str(record_id) for record_id in manifest["record_id"].iloc[np.flatnonzero(bad)[:20]]]


if __name__ == "__main__":
    stage_cli.run(check)
