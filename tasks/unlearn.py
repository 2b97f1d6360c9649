"""Stage `unlearn`: the original model without the influence of the forget set."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import astuple, fields
from pathlib import Path

from tasks import blocks, compute, fcalb, files, ledger, models, records, stage
from tasks import settings as settings_module
from tasks.errors import EvidenceError


def main(original: Path, data: Path, split: Path, forget: Path, params: Path, out: Path) -> None:
    """Make the original model forget, by the method of `unlearn.method`.

    Example: python -m tasks.unlearn --original artifacts/train/0/seed-0.safetensors --data data
    --split artifacts/split.csv --forget artifacts/resolve/forget.csv --params params.yaml --out artifacts/unlearn
    """
    settings = settings_module.load(params)
    place = compute.prepare(settings.compute)
    manifest = records.read_manifest(data)
    asked = records.read_forget(forget, manifest) != ""
    retained = (records.read_roles(split, manifest) == "training") & ~asked
    if not asked.any():
        raise EvidenceError(f"{forget} names no record; expected a forget set")
    network = models.load(original, settings.model, settings.data)
    trace: list[fcalb.TraceRow] = []
    path = out / "unlearned.safetensors"
    if settings.unlearn.method == "none":
        cost = ledger.keep("unlearn", models.save(network, path), {"seconds": 0.0, **place.facts()})
    else:
        retain_set = blocks.load_rows(retained, data, settings, place)
        if settings.unlearn.method == "retrain":
            cost = blocks.train_model(retain_set, settings, ("unlearn", 0), path, "retraining")
        else:
            forget_set = blocks.load_rows(asked, data, settings, place)
            stage.say(f"{settings.unlearn.method}: {len(forget_set)} records to forget, {len(retain_set)} retained")
            started = time.perf_counter()
            network, trace = fcalb.unlearn(
                network, forget_set, retain_set, settings, blocks.Announcer(settings.unlearn.method)
            )
            seconds = time.perf_counter() - started
            stage.say(f"{settings.unlearn.method}: done in {seconds:.1f} s")
            cost = ledger.keep("unlearn", models.save(network, path), {"seconds": round(seconds, 3), **place.facts()})
    files.write_json(path.with_suffix(".json"), cost)
    files.write_text(out / "trace.csv", _table(trace))


def _table(trace: list[fcalb.TraceRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(fcalb.TraceRow))
    writer.writerows(astuple(row) for row in trace)
    return text.getvalue()


if __name__ == "__main__":
    stage.run(main)
