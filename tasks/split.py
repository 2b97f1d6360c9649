"""Stage `split`: give each data subject one role: training, calibration, control or test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import files, seeds, settings, stage_cli
from tasks.common.errors import DataError
from tasks.data import records, rules

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = ("calibration", "control", "test")
"""Roles of subjects that no model sees."""

TRIES = 200
"""Random assignments to compare; the one with the best balanced classes is used."""


def split(
    data: Path = Path("data"),
    checked: Path = Path("artifacts/check/data.json"),
    params: Path = Path("params.yaml"),
    out: Path = Path("artifacts/split.csv"),
) -> None:
    """Assign roles to data subjects and write `record_id, role`."""
    chosen = settings.load(params)
    manifest = records.read_manifest(data)
    if files.read_json(checked).get("manifest_sha256") != files.sha256(data / "manifest.csv"):
        raise DataError("manifest.csv is not the one that was checked; run the stage `check` first")
    roles = assign(manifest, chosen.split, seeds.derive(chosen.seed, "split"))
    for line in describe(manifest, roles):
        stage_cli.say(line)
    table = manifest[["record_id"]].assign(role=roles)
    files.write_text(out, table.to_csv(index=False, lineterminator="\n"))


def assign(manifest: pd.DataFrame, shares: settings.Split, seed: int) -> NDArray[np.str_]:
    """Give every record a role, the same one to all records of a subject.

    A `split` column of the manifest decides; its `unseen` subjects are divided among calibration,
    control and test in the proportions of the settings. Without the column all subjects are
    divided.

    Args:
        manifest: as `records.read_manifest` returns it.
        shares: shares of subjects.
        seed: of the random assignment.

    Returns:
        (n,) roles.

    Raises:
        DataError: a subject has two roles, there are too few subjects, or a role would be empty.
    """
    import pandas as pd

    subject, _ = pd.factorize(manifest["subject_id"])
    size = int(subject.max()) + 1
    fixed = np.full(size, "", dtype="<U11")
    weights = {"training": 1 - shares.calibration - shares.control - shares.test} | {
        role: float(getattr(shares, role)) for role in HELD_OUT
    }
    if "split" in manifest:
        _refuse_two_roles(manifest)
        fixed[subject] = manifest["split"].replace("unseen", "").to_numpy(np.str_)
        del weights["training"]
    free = np.flatnonzero(fixed == "")
    assigned = {role: int((fixed == role).sum()) for role in rules.ROLES}
    counts = class_counts(subject, manifest["label"].to_numpy(), size)
    fixed[free] = deal(counts[free], quotas(weights, len(free), assigned), seed)
    return fixed[subject]


def quotas(shares: dict[str, float], subjects: int, assigned: dict[str, int]) -> dict[str, int]:
    """How many subjects each role gets, by largest remainder; at least one for a role that nobody
    has yet.

    Args:
        shares: weight of each role that is to be dealt.
        subjects: number of subjects to deal.
        assigned: subjects who have a role already.

    Raises:
        DataError: there are fewer subjects than empty roles.
    """
    empty = [role for role in rules.ROLES if not assigned[role]]
    if len([role for role in empty if role in shares]) > subjects or any(
        role not in shares for role in empty
    ):
        raise DataError(
            f"no data subject is left for {', '.join(empty)}: got {subjects} to share out, and "
            "every role needs one. Import more subjects or, with a split column, mark subjects as "
            "training and others as unseen"
        )
    exact = {role: subjects * share / sum(shares.values()) for role, share in shares.items()}
    dealt = {role: max(int(exact[role]), int(role in empty)) for role in shares}
    while sum(dealt.values()) < subjects:
        dealt[max(shares, key=lambda role: exact[role] - dealt[role])] += 1
    while sum(dealt.values()) > subjects:
        spare = [role for role in shares if dealt[role] > int(role in empty)]
        dealt[max(spare, key=lambda role: dealt[role] - exact[role])] -= 1
    return dealt


def class_counts(
    subject: NDArray[np.intp], label: NDArray[np.int64], subjects: int
) -> NDArray[np.int64]:
    """(subjects, classes) number of records of each subject in each class."""
    classes = int(label.max()) + 1
    return np.bincount(subject * classes + label, minlength=subjects * classes).reshape(
        subjects, classes
    )


def deal(counts: NDArray[np.int64], quota: dict[str, int], seed: int) -> NDArray[np.str_]:
    """Deal roles to subjects so that every role gets its quota and classes are balanced.

    Subjects are laid out by their main class, in random order within it, and roles follow each
    other evenly spaced (systematic sampling), so each class meets each role. Of several such deals
    the most balanced one is taken.

    Args:
        counts: (subjects, classes) records.
        quota: subjects per role; adds up to the number of subjects.
        seed: of the order.

    Returns:
        (subjects,) roles.
    """
    roles = np.array([role for role, number in quota.items() if number], dtype="<U11")
    numbers = [number for number in quota.values() if number]
    if not len(counts):
        return np.empty(0, dtype="<U11")
    positions = np.concatenate([(np.arange(number) + 0.5) / number for number in numbers])
    sequence = np.repeat(np.arange(len(roles)), numbers)[np.argsort(positions, kind="stable")]
    main = counts.argmax(axis=1)
    random = np.random.Generator(np.random.PCG64(seed))
    best, least = sequence, np.inf
    for _ in range(max(1, min(TRIES, 2_000_000 // len(counts)))):
        order = np.lexsort((random.random(len(counts)), main))
        role = np.empty(len(counts), np.int64)
        role[order] = sequence
        if (unlike := imbalance(counts, role, len(roles))) < least:
            best, least = role, unlike
    return roles[best]


def imbalance(counts: NDArray[np.int64], role: NDArray[np.int64], roles: int) -> float:
    """How much the class shares of the roles differ: 0 if all are equal; a missing class weighs
    heavily."""
    totals = np.zeros((roles, counts.shape[1]))
    for number in range(roles):
        totals[number] = counts[role == number].sum(axis=0)
    totals = totals[:, totals.sum(axis=0) > 0]
    expected = np.outer(totals.sum(axis=1), totals.sum(axis=0)) / totals.sum()
    lacking = float((totals == 0).sum())
    return 1000 * lacking + float(
        ((totals - expected) ** 2 / np.maximum(expected, 1e-9)).sum() / totals.sum()
    )


def describe(manifest: pd.DataFrame, roles: NDArray[np.str_]) -> list[str]:
    """Lines for the log: sizes of the roles, and classes missing from control or training."""
    subjects = manifest.assign(role=roles).groupby("role")["subject_id"].nunique()
    lines = ["subjects: " + ", ".join(f"{int(subjects[role])} {role}" for role in rules.ROLES)]
    labels = manifest["label"].to_numpy()
    for role in ("training", "control"):
        lacking = sorted(set(labels.tolist()) - set(labels[roles == role].tolist()))
        if lacking:
            lines.append(
                f"warning: no {role} subject has records of class "
                f"{', '.join(map(str, lacking[:20]))};"
                " a verdict on such records has nothing to compare with; add subjects"
            )
    return lines


def _refuse_two_roles(manifest: pd.DataFrame) -> None:
    torn = rules.in_two_groups(manifest["subject_id"], manifest["split"])
    if torn.any():
        raise DataError(
            f"manifest.csv: {records.name_records(manifest, torn)}: expected that "
            f"{rules.ONE_SPLIT}. "
            "Give every subject one value"
        )


if __name__ == "__main__":
    stage_cli.run(split)
