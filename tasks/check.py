"""Stage `check`: validate the records and the batch's requests.

A fault in the data stops the audit before anything is written. A fault in a request is recorded,
and `resolve` sets the request aside. `tasks.data.rules` holds the rules; Great Expectations reports
on them.
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
        DataError: the data are invalid or were not packed; names the records. Nothing is written.
        RequestError: the batch is empty or cannot be read.
    """
    classes = settings.load(params).data.classes
    entries = read_batch(requests)
    table = records.read_table(data)
    packed_files = image_pack.read_files(pack, data, len(table))
    suite, facts = data_suite(table, classes), data_facts(table, data, packed_files)
    passed = expectations.validate(facts, suite, "manifest")
    refuse_faults(facts, suite, passed)
    manifest = records.with_integer_labels(table)
    findings = [
        _finding(rule, ok, rule.broken(facts), records=_first(manifest, rule.broken(facts)))
        for rule, ok in zip(suite, passed, strict=True)
    ]
    batch_findings = request_findings(
        entries, manifest, read_directory(data, manifest), packed_files
    )
    report = data_report(manifest, findings, files.sha256(data / "manifest.csv"))
    report["class_names"] = class_names(data, classes)
    files.write_json(out / "data.json", with_sentences(report))
    known_people = data / "identities.csv"
    identities_sha256 = files.sha256(known_people) if known_people.exists() else None
    batch = {
        "checks": batch_findings,
        "requests": len(entries),
        "identities_sha256": identities_sha256,
    }
    files.write_json(out / "requests.json", with_sentences(batch))
    for line in findings + batch_findings:
        if not line["passed"]:
            stage_cli.say(f"warning: this rule does not hold: {line['sentence']}")


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
    """The names of the classes in order, from `dataset.json`; their numbers if the file is missing
    or names another number of classes.

    Raises:
        AuditError: the file is no JSON.
    """
    path = data / "dataset.json"
    names = files.read_json(path).get("class_names", []) if path.exists() else []
    return [str(name) for name in (names if len(names) == classes else range(classes))]


def data_facts(
    table: pd.DataFrame, folder: Path, packed_files: image_pack.PackedFiles
) -> pd.DataFrame:
    """The manifest with the facts about its files, a column for each rule that needs one.

    Args:
        table: n records as strings.
        folder: the data folder.
        packed_files: facts about the image files.
    """
    import pandas as pd

    label = pd.to_numeric(table["label"], errors="coerce").fillna(-1).astype(np.int64)
    counts = label.map(label.value_counts())
    return rules.facts(table, folder).assign(
        label_number=label,
        class_share=counts / counts.max(),
        file_hash=packed_files.same,
        file_decodes=packed_files.decodes | ~packed_files.readable,
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
    """Raise `DataError` with every error, and name its records."""
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
    packed_files: image_pack.PackedFiles,
) -> list[dict[str, Any]]:
    """The suite over the batch, as findings for requests.json."""
    people = People(manifest, directory)
    selected_rows = [_selected_rows(entry, people) for entry in entries]
    facts = request_facts(entries, selected_rows)
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
    return [*findings, near_duplicate_finding(entries, selected_rows, manifest, packed_files)]


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
    entries: list[Request | RefusedEntry], selected_rows: list[NDArray[np.intp] | None]
) -> pd.DataFrame:
    """A row per entry: whether it is well-formed, has a known subject, and occurs once.

    Args:
        entries: the batch.
        selected_rows: rows of the manifest that each names, as `_rows_meant` gives them.
    """
    import pandas as pd

    formed = np.array([isinstance(entry, Request) for entry in entries])
    has_rows = np.array([rows is not None for rows in selected_rows])
    asked_once, claimed = np.ones(len(entries), bool), set[int]()
    for number, rows in enumerate(selected_rows):
        requested = set() if rows is None else set(rows.tolist())
        asked_once[number] = claimed.isdisjoint(requested)
        claimed |= requested
    return pd.DataFrame(
        {
            "request_id": [entry.request_id for entry in entries],
            "request_form": formed,
            "request_subject_known": ~formed | has_rows,
            "request_records_known": [rows is None or len(rows) > 0 for rows in selected_rows],
            "request_once": asked_once,
        }
    )


def _selected_rows(entry: Request | RefusedEntry, people: People) -> NDArray[np.intp] | None:
    """Rows of the manifest that a request selects; None if its subject is unknown, empty if it
    names other people's records."""
    if isinstance(entry, RefusedEntry):
        return None
    selection = people.select(entry)
    return None if selection.subject_id is None else selection.rows


def near_duplicate_finding(
    entries: list[Request | RefusedEntry],
    selected_rows: list[NDArray[np.intp] | None],
    manifest: pd.DataFrame,
    packed_files: image_pack.PackedFiles,
) -> dict[str, Any]:
    """A warning for records of other subjects that look the same as one to be forgotten; they stay
    in the model.

    Returns:
        The finding; `records` are the other subjects' records.
    """
    import pandas as pd

    subject, _ = pd.factorize(manifest["subject_id"])
    request_number = np.full(len(manifest), -1, np.int64)
    for number, rows in enumerate(selected_rows):
        if rows is not None:
            request_number[rows] = np.where(request_number[rows] < 0, number, request_number[rows])
    content, _ = pd.factorize(manifest["sha256"])  # that of the files: the data passed
    requested_rows, twin_rows = near_duplicates.twins(
        np.flatnonzero(request_number >= 0), subject, content, packed_files.thumbs
    )
    is_twin = np.zeros(len(manifest), bool)
    is_twin[twin_rows] = True
    concerned = [entries[number].request_id for number in np.unique(request_number[requested_rows])]
    sentence = say("no record of another data subject looks the same as one to be forgotten")
    if len(twin_rows):
        sentence = say(
            "no record of another data subject looks the same as one to be forgotten ({count} do; "
            "they stay in the data and the model unless they are asked for, too)",
            count=is_twin.sum(),
        )
    facts = {
        "name": "near_duplicates",
        "sentence": sentence,
        "severity": "warning",
        "passed": not len(twin_rows),
    }
    return facts | {
        "records": _first(manifest, is_twin),
        "count": int(is_twin.sum()),
        "requests": concerned,
    }


def _finding(
    rule: Rule, passed: bool, broken: NDArray[np.bool_], **names: list[str]
) -> dict[str, Any]:
    facts = {
        "name": rule.name,
        "sentence": rule.sentence,
        "severity": rule.severity,
        "passed": passed,
    }
    return facts | {"records": [], "count": int(broken.sum())} | names


def _first(manifest: pd.DataFrame, faulty: NDArray[np.bool_]) -> list[str]:
    return [str(record_id) for record_id in manifest["record_id"].iloc[np.flatnonzero(faulty)[:20]]]


if __name__ == "__main__":
    stage_cli.run(check)
