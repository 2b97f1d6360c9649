"""Stage: are the records and the batch's requests what they have to be? A Great Expectations suite
over both.

Faults of the data stop the audit before anything is written. A fault of a request is on file here
and the request is set aside by `resolve`. Great Expectations is told to answer with yes or no only,
so that no value of the data, which may be personal, gets into its results; the records at fault are
named by our own rules (`tasks.data.records`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.common import files, settings, stage_cli
from tasks.common.errors import DataError
from tasks.common.language import Sentence, say, with_sentences
from tasks.data import image_pack, records
from tasks.data.people import People
from tasks.requests.directory import Directory, read_directory
from tasks.requests.opendsr import Refusal, Request, read_batch

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_CLASS = 0.1
"""Least size of a class, as a share of the largest one, without a warning."""

ALIKE = 3.0
"""Root-mean-square difference of two thumbnails, in grey levels of 255, up to which pictures count
as the same."""

PLAIN = 8.0
"""Standard deviation of a thumbnail's grey levels below which it shows too little to be
compared."""


@dataclass(frozen=True)
class Check:
    """A question put to Great Expectations, and the records or requests at fault by our own rule.

    Attributes:
        name: short machine word.
        sentence: what is expected, as a statement.
        severity: an error stops the audit (data) or sets the request aside; a warning is only
            shown.
        expectation: name of an expectation of Great Expectations.
        arguments: its arguments.
        bad: (rows,) bool, true where a row is at fault.
    """

    name: str
    sentence: Sentence
    severity: Literal["error", "warning"]
    expectation: str
    arguments: dict[str, Any]
    bad: NDArray[np.bool_]


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
    chosen = settings.load(params)
    entries = read_batch(requests)
    table = records.read_table(data)
    found = records.faults(table, data)
    seen = image_pack.read_files(pack, data, len(table))
    checks = data_checks(table, found, seen, chosen.data.classes)
    passed = validate(data_frame(table), checks, "manifest")
    refuse_faults(table, checks, passed)
    manifest = records.typed(table)
    findings = [
        _finding(one, ok, records=_first(manifest, one.bad))
        for one, ok in zip(checks, passed, strict=True)
    ]
    asked = request_findings(entries, manifest, read_directory(data, manifest), seen)
    report = data_report(manifest, findings, files.sha256(data / "manifest.csv"))
    files.write_json(out / "data.json", with_sentences(report))
    known = data / "identities.csv"
    identities = files.sha256(known) if known.exists() else None
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


def data_frame(table: pd.DataFrame) -> pd.DataFrame:
    """The manifest beside what was found out about it, one column per question."""
    import pandas as pd

    label = pd.to_numeric(table["label"], errors="coerce").fillna(-1).astype(np.int64)
    counts = label.map(label.value_counts())
    frame = table[[*records.COLUMNS, *(["split"] if "split" in table else [])]]
    return frame.assign(
        label_number=label,
        class_share=counts / counts.max(),
    )


def data_checks(
    table: pd.DataFrame, faults: dict[str, NDArray[np.bool_]], seen: image_pack.Files, classes: int
) -> list[Check]:
    """The suite over the manifest and its files.

    Args:
        table: n records as strings.
        faults: what `records.faults` found.
        seen: what the image files are.
        classes: number of classes that the settings name.
    """
    frame = data_frame(table)
    label, none = frame["label_number"], np.zeros(len(table), bool)
    absent = sorted(set(range(classes)) - set(label.tolist()))
    checks = [
        Check(rule, records.RULES[rule], "error", *_EXPECTATIONS[rule], bad)
        for rule, bad in faults.items()
    ]
    checks += [
        Check(
            "label_known",
            say(
                "label is one of the classes 0 … {last} of the setting data.classes",
                last=classes - 1,
            ),
            "error",
            "ExpectColumnValuesToBeBetween",
            {"column": "label_number", "min_value": 0, "max_value": classes - 1},
            ~label.between(0, classes - 1).to_numpy(bool),
        ),
        Check(
            "file_hash",
            say(
                "every image file is there and has the SHA-256 of the manifest (if not: `dvc "
                "checkout data.dvc`)"
            ),
            "error",
            "ExpectColumnValuesToBeInSet",
            {"column": "file_hash", "value_set": [True]},
            ~seen.same,
        ),
        Check(
            "file_decodes",
            say(
                "every image file decodes whole (if not it is truncated or no image: restore it "
                "or remove its record)"
            ),
            "error",
            "ExpectColumnValuesToBeInSet",
            {"column": "file_decodes", "value_set": [True]},
            ~seen.decodes & seen.readable,
        ),
        Check(
            "classes_present",
            say(
                "every class has records (without: {classes})",
                classes=", ".join(map(str, absent[:20])),
            )
            if absent
            else say("every class has records"),
            "warning",
            "ExpectColumnDistinctValuesToContainSet",
            {"column": "label_number", "value_set": list(range(classes))},
            none,
        ),
        Check(
            "class_balance",
            say(
                "the smallest class has at least {share:.0%} of the largest one's records",
                share=SMALLEST_CLASS,
            ),
            "warning",
            "ExpectColumnValuesToBeBetween",
            {"column": "class_share", "min_value": SMALLEST_CLASS},
            (frame["class_share"] < SMALLEST_CLASS).to_numpy(bool),
        ),
    ]
    return checks


_EXPECTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "record_id_form": (
        "ExpectColumnValuesToMatchRegex",
        {"column": "record_id", "regex": rf"^{records.IDENTIFIER}\Z"},
    ),
    "record_id_unique": ("ExpectColumnValuesToBeUnique", {"column": "record_id"}),
    "subject_id_form": (
        "ExpectColumnValuesToMatchRegex",
        {"column": "subject_id", "regex": rf"^{records.IDENTIFIER}\Z"},
    ),
    "label_form": (
        "ExpectColumnValuesToMatchRegex",
        {"column": "label", "regex": r"^[0-9]{1,9}\Z"},
    ),
    "path_inside": ("ExpectColumnValuesToBeInSet", {"column": "path_inside", "value_set": [True]}),
    "path_unique": ("ExpectColumnValuesToBeUnique", {"column": "path"}),
    "sha256_form": (
        "ExpectColumnValuesToMatchRegex",
        {"column": "sha256", "regex": r"^[0-9a-f]{64}\Z"},
    ),
    "split_known": (
        "ExpectColumnValuesToBeInSet",
        {"column": "split", "value_set": list(records.SPLIT_VALUES)},
    ),
    "one_split": ("ExpectColumnValuesToBeInSet", {"column": "one_split", "value_set": [True]}),
}
"""How Great Expectations is asked for each of `records.RULES`. It cannot see two of them in a
column of the manifest; those it is shown as a column of their own, named like the rule."""


def refuse_faults(table: pd.DataFrame, checks: list[Check], passed: list[bool]) -> None:
    """Raise `DataError` with every error found, the records named."""
    found = [
        f"{records.name_records(table, one.bad)}: expected that {one.sentence}"
        for one, ok in zip(checks, passed, strict=True)
        if not ok and one.severity == "error"
    ]
    if found:
        raise DataError(
            "manifest.csv and its images: " + "; ".join(found) + ". Nothing was written"
        )


def validate(frame: pd.DataFrame, checks: list[Check], name: str) -> list[bool]:
    """Put the questions to Great Expectations.

    Args:
        frame: what is asked about.
        checks: the questions; columns of their rules are added where they have none of their own.
        name: name of the suite.

    Returns:
        The answers, in order.

    Raises:
        DataError: an expectation could not be evaluated, or its answer contradicts our own rule.
    """
    derived = {
        one.arguments["column"]: ~one.bad
        for one in checks
        if one.arguments.get("column") == one.name
    }
    with _great_expectations() as (context, expectations):
        made = [
            getattr(expectations, one.expectation)(**one.arguments, meta={"check": one.name})
            for one in checks
        ]
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name).get_batch(
            {"dataframe": frame.assign(**derived)}
        )
        # as one suite: for each question by itself, the whole frame would be hashed again
        found = batch.validate(_suite(name, made), result_format="BOOLEAN_ONLY").results
    answered = {answer.expectation_config.meta["check"]: answer for answer in found}
    answers = [answered[one.name] for one in checks]
    for one, answer in zip(checks, answers, strict=True):
        if _raised(answer.exception_info) or (
            one.severity == "error" and answer.success == one.bad.any()
        ):
            raise DataError(
                f"the check {one.name} could not be made by Great Expectations; is its version "
                "that of the lock file?"
            )
    return [bool(answer.success) for answer in answers]


def _suite(name: str, expectations: list[Any]) -> Any:
    from great_expectations import ExpectationSuite

    return ExpectationSuite(name=name, expectations=expectations)


def _raised(info: dict[str, Any]) -> bool:
    """Whether an expectation failed for an error; Great Expectations files it plainly or per
    metric."""
    parts = [info, *(part for part in info.values() if isinstance(part, dict))]
    return any(part.get("raised_exception") for part in parts)


@contextlib.contextmanager
def _great_expectations() -> Iterator[tuple[Any, Any]]:
    """An ephemeral context of Great Expectations that calls nobody, draws no progress bars and
    leaves no file."""
    import logging

    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations
    from great_expectations import expectations

    context: Any = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    yield context, expectations


def request_findings(
    entries: list[Request | Refusal],
    manifest: pd.DataFrame,
    directory: Directory,
    seen: image_pack.Files,
) -> list[dict[str, Any]]:
    """The suite over the batch, as findings for requests.json."""
    import pandas as pd

    people = People(manifest, directory)
    meant = [_rows_meant(entry, people) for entry in entries]
    ids = np.array([entry.request_id for entry in entries])
    checks = request_checks(entries, meant)
    passed = validate(pd.DataFrame({"request_id": ids}), checks, "requests")
    findings = [
        _finding(one, ok, requests=ids[one.bad].tolist())
        for one, ok in zip(checks, passed, strict=True)
    ]
    return [*findings, near_duplicates(entries, meant, manifest, seen)]


def request_checks(
    entries: list[Request | Refusal], meant: list[NDArray[np.intp] | None]
) -> list[Check]:
    """Questions about each request: is it well-formed, known, asked once? A fault sets the request
    aside."""
    formed = np.array([isinstance(entry, Request) for entry in entries])
    known = np.array([rows is not None for rows in meant])
    empty = np.array([rows is not None and not len(rows) for rows in meant])
    once, taken = np.ones(len(entries), bool), set[int]()
    for number, rows in enumerate(meant):
        asked = set() if rows is None else set(rows.tolist())
        once[number] = taken.isdisjoint(asked)
        taken |= asked
    questions = {
        "request_form": (
            say("every request is an OpenDSR erasure request with an id of its own"),
            ~formed,
        ),
        "request_subject_known": (
            say("every well-formed request names one data subject of the data set"),
            formed & ~known,
        ),
        "request_records_known": (
            say("single records that a request names are its subject's"),
            empty,
        ),
        "request_once": (say("no record is asked for twice in the batch"), ~once),
    }
    held = {"value_set": [True]}
    return [
        Check(name, sentence, "error", "ExpectColumnValuesToBeInSet", {"column": name} | held, bad)
        for name, (sentence, bad) in questions.items()
    ]


def _rows_meant(entry: Request | Refusal, people: People) -> NDArray[np.intp] | None:
    """Rows of the manifest that a request names; None without a known subject, none if it names
    other records."""
    if isinstance(entry, Refusal):
        return None
    selection = people.select(entry)
    return None if selection.subject_id is None else selection.rows


def near_duplicates(
    entries: list[Request | Refusal],
    meant: list[NDArray[np.intp] | None],
    manifest: pd.DataFrame,
    seen: image_pack.Files,
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
    named, other = twins(np.flatnonzero(of_request >= 0), subject, content, seen.thumbs)
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


def twins(
    named: NDArray[np.intp],
    subject: NDArray[np.intp],
    content: NDArray[np.intp],
    thumbs: NDArray[np.uint8],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of a named record and a record of another subject that have the same bytes or look the
    same.

    Looking the same: thumbnails differ by at most `ALIKE` on average. Averages over 2 x 4 cells can
    only be closer than the thumbnails are, so a tree over those 8 numbers finds all candidates
    without comparing all pairs.

    Args:
        named: rows of the records to be forgotten.
        subject: (n,) number of each record's subject.
        content: (n,) a number for each record's file, the same for the same bytes.
        thumbs: (n, 64) grey levels of the records' thumbnails.

    Returns:
        Rows of the named records and of the others, one entry per pair.
    """
    from scipy.spatial import cKDTree

    rough = (
        thumbs.reshape(-1, 2, 4, 4, 2).mean(axis=(2, 4), dtype=np.float32).reshape(len(thumbs), 8)
    )
    same = _same_value(named, content)
    shows = named[_contrast(thumbs[named]) >= PLAIN]
    near: list[list[int]] = []
    if len(shows):
        reach = ALIKE * image_pack.THUMB / np.sqrt(image_pack.THUMB) + 1e-3
        near = (
            cKDTree(rough, compact_nodes=False, balanced_tree=False)
            .query_ball_point(rough[shows], reach)
            .tolist()
        )
    left = np.concatenate([same[0], np.repeat(shows, [len(found) for found in near])]).astype(
        np.intp
    )
    right = np.concatenate([same[1], *(np.array(found, np.intp) for found in near)]).astype(np.intp)
    foreign = subject[left] != subject[right]
    left, right = left[foreign], right[foreign]
    apart = np.sqrt(((thumbs[left].astype(np.float32) - thumbs[right]) ** 2).mean(axis=1))
    alike = (apart <= ALIKE) & (
        (_contrast(thumbs[left]) >= PLAIN) | (content[left] == content[right])
    )
    return left[alike], right[alike]


def _contrast(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(thumbs.astype(np.float32).std(axis=1))


def _same_value(
    rows: NDArray[np.intp], values: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of one of the rows and any row of the same value, found by sorting."""
    order = np.argsort(values, kind="stable")
    start = np.searchsorted(values[order], values[rows], "left")
    size = np.searchsorted(values[order], values[rows], "right") - start
    offset = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(rows, size), order[np.repeat(start, size) + offset]


def _finding(check: Check, passed: bool, **named: list[str]) -> dict[str, Any]:
    facts = {
        "name": check.name,
        "sentence": check.sentence,
        "severity": check.severity,
        "passed": passed,
    }
    return facts | {"records": [], "count": int(check.bad.sum())} | named


def _first(manifest: pd.DataFrame, bad: NDArray[np.bool_]) -> list[str]:
    return [str(record_id) for record_id in manifest["record_id"].iloc[np.flatnonzero(bad)[:20]]]


if __name__ == "__main__":
    stage_cli.run(check)
