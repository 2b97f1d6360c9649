"""A workspace in which an audit takes seconds: stand-ins for the stages that compute, everything
else real.

Models are a few random numbers, and scores are drawn as models that remember, or do not, would give
them. Checking, splitting, resolving, verifying and reporting are the pipeline's own, and so are
DVC, Prefect, git and all that operates them. So faults of the operation show as they would in
earnest, and a hundred of them take minutes.

Example: python -m benchmarks.stand_in world my-world
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SUBJECTS, EACH, CLASSES, SIDE = 48, 6, 2, 10
SEEDS = 8
PAUSE = "STAND_IN_PAUSE"
"""Environment variable: how long a played stage takes, s."""
PLAYED = ("train", "retrain", "unlearn", "probe", "score")
MEMORY = 6.0
"""How much higher the margin of a remembered record is."""


def world(folder: Path, subjects: int = SUBJECTS) -> Path:
    """Make a workspace with data, pipeline and settings, everything committed.

    Args:
        folder: an empty one.
        subjects: how many people the data are of.

    Returns:
        The workspace, a git repository.
    """
    from flows.workspace import layout, shell
    from tasks.common import files, settings
    from tasks.data.importers import classes, writing

    layout.init(folder)
    shell.git(folder, "config", "user.email", "operator@example.org")
    shell.git(folder, "config", "user.name", "Operator")
    rows = [(subject, number) for subject in range(subjects) for number in range(EACH)]
    random = np.random.Generator(np.random.PCG64(11))
    writing.write(
        folder / "data",
        writing.Source(
            name="Stand-in",
            source="random pictures",
            note="Nobody's pictures.",
            classes=classes.from_codes([number % CLASSES for _, number in rows], ("0", "1")),
            columns={
                "record_id": writing.record_ids(len(rows)),
                "subject_id": [subject_id(subject) for subject, _ in rows],
            },
            pictures=(
                writing.encode(random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)) for _ in rows
            ),
        ),
    )
    text = (folder / "dvc.yaml").read_text(encoding="utf-8")
    for name in PLAYED:
        text = text.replace(f"python -m tasks.{name} ", f"python -m benchmarks.stand_in {name} ")
    files.write_text(folder / "dvc.yaml", text)
    settings.assign(
        folder / "params.yaml",
        [
            f"data.classes={CLASSES}",
            "data.image_size=10",
            f"references.seeds_per_block={SEEDS}",
            "references.with_blocks=[0]",
            "references.without_blocks=[0]",
            # played models have answers, and no weights to look at them in other ways
            "verify.views=[]",
            "verify.alike=false",
        ],
    )
    layout.track_data(folder)
    shell.git(folder, "add", ".")
    shell.git(folder, "commit", "--quiet", "-m", "A world")
    return folder


def subject_id(number: int) -> str:
    """The id of a data subject, which is found nowhere by chance."""
    return f"subject-{hashlib.sha256(f'stand-in {number}'.encode()).hexdigest()[:12]}"


def main(name: str, options: dict[str, str]) -> None:
    """Stand in for a stage: print, take some time, and write the files of the real stage."""
    from tasks.common import settings

    for step in range(1, 4):
        print(f"{name}: step {step} of 3", flush=True)
        time.sleep(float(os.environ.get(PAUSE, "0")) / 3)
    chosen = settings.load(Path(options["params"]))
    out = Path(options["out"])
    if name in ("train", "retrain"):
        _block(
            name,
            int(options["block"]),
            chosen.references.seeds_per_block,
            _seed(options, chosen.seed),
            out,
        )
    elif name == "unlearn":
        _model(out / "unlearned.safetensors", _seed(options, chosen.seed), "unlearn")
        _write(
            out / "trace.csv", "step,phase,forget_loss,recover_loss,forget_weight,recover_weight\n"
        )
    elif name == "probe":
        _write(out / "probes.json", json.dumps({"reason": None}))
    else:
        _score(options, chosen)


def _block(kind: str, block: int, size: int, seed: int, out: Path) -> None:
    from tasks.common import files

    with files.whole_folder(out) as draft:
        for number in range(block * size, (block + 1) * size):
            _model(draft / f"seed-{number}.safetensors", seed + number, kind)


def _model(path: Path, seed: int, activity: str) -> None:
    from safetensors.numpy import save

    from tasks.common import cost_ledger, files

    weights = np.random.Generator(np.random.PCG64(seed)).standard_normal(64).astype(np.float32)
    files.write_bytes(path, save({"weights": weights}))
    measured = {
        "seconds": 0.1,
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "torch": "none",
    }
    files.write_json(
        path.with_suffix(".json"), cost_ledger.keep(activity, files.sha256(path), measured)
    )


def _score(options: dict[str, str], chosen: Any) -> None:
    from dataclasses import asdict

    import pandas as pd

    from tasks.common import files
    from tasks.data import records
    from tasks.score import lineage_of, models_to_score  # the real stage's own list of models
    from tasks.training import release_lineage
    from tasks.verification import scoring

    manifest = records.read_manifest(Path("data"))
    requests = records.read_forget(Path(options["forget"]), manifest)
    roles = records.read_roles(Path(options["split"]), manifest)
    original = Path(options["original"])
    entries = models_to_score(
        original,
        Path(options["trained"]),
        Path(options["unlearned"]),
        Path(options["retrained"]),
        chosen,
    )
    if chosen.references.with_from != "artifacts/train":
        from tasks.score import ScoredModel

        references = release_lineage.references(
            Path(options["trained"]), manifest, roles == "training", chosen
        )
        entries += [ScoredModel(f"with-{path.stem}", "with", path) for path in references]
    random = np.random.Generator(np.random.PCG64(_seed(options, chosen.seed)))
    base = random.normal(2.0, 1.0, len(manifest))
    phi = base + random.normal(0.0, 1.0, (len(entries), len(manifest)))
    trained_on = roles == "training"
    for position, entry in enumerate(entries):
        remembers = (
            trained_on if entry.role in ("original", "with") else trained_on & (requests == "")
        )
        phi[position] += MEMORY * remembers
    labels = manifest["label"].to_numpy(np.int64)
    predicted = np.where(phi > 0, labels, (labels + 1) % CLASSES)
    scores = scoring.Scores(
        np.array([entry.role for entry in entries]),
        phi,
        predicted,
        labels,
        roles,
        requests,
        pd.factorize(manifest["subject_id"])[0].astype(np.int64),
        np.array([], np.str_),
        np.empty((len(manifest), 0), np.str_),
    )
    scores.check()
    out = Path(options["out"])
    scores.save(out / "scores.npz")
    files.write_json(
        out / "lineage.json",
        {
            "models": [lineage_of(entry) for entry in entries],
            "manifest_sha256": files.sha256(Path("data/manifest.csv")),
            "history": asdict(release_lineage.history(original, int(trained_on.sum()))),
            "batch": {
                "forgotten": int((trained_on & (requests != "")).sum()),
                "retained": int((trained_on & (requests == "")).sum()),
            },
        },
    )


def _seed(options: dict[str, str], seed: int) -> int:
    """A number derived from the stage's input."""
    parts = [Path(options[name]).read_bytes() for name in ("split", "forget") if name in options]
    return int(hashlib.sha256(b"".join([str(seed).encode(), *parts])).hexdigest()[:8], 16)


def _write(path: Path, text: str) -> None:
    from tasks.common import files

    files.write_text(path, text)


def request(number: int) -> dict[str, Any]:
    """A request of a data subject as a batch file has it."""
    return {
        "subject_request_id": f"00000000-0000-4000-8000-{number:012d}",
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-02T09:00:00Z",
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": subject_id(number),
                "identity_format": "raw",
            }
        ],
        "api_version": "1.0",
        "regulation": "gdpr",
    }


def table(subjects: list[str], day: str, ids: list[str]) -> str:
    """Requests as the CSV that the intake takes: one per subject."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (
        "subject_request_id,regulation,submitted_time,identity_type,identity_value,identity_format"
    )
    writer.writerow(names.split(","))
    for subject, request in zip(subjects, ids, strict=True):
        writer.writerow(
            [request, "gdpr", f"{day}T09:00:00Z", "controller_customer_id", subject, "raw"]
        )
    return text.getvalue()


if __name__ == "__main__":
    if sys.argv[1] == "world":
        print(world(Path(sys.argv[2])))
    else:
        words = sys.argv[2:]
        main(
            sys.argv[1],
            {
                key.removeprefix("--"): value
                for key, value in zip(words[::2], words[1::2], strict=True)
            },
        )
