"""The model card of a release: the model, its origin, how to load it, and its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.common.settings import Settings

LOADER = '''import json
from pathlib import Path

import torch
from tasks.common.settings import Data, Model
from tasks.training import checkpoints, preprocessing

place = Path("served")
recipe = json.loads((place / "lineage.json").read_text())["recipe"]
model, data = Model.model_validate(recipe["model"]), Data.model_validate(recipe["data"])
network = checkpoints.load(place / "model.safetensors", model, data).eval()
mean, std = (
    torch.tensor(values)[:, None, None]
    for values in preprocessing.normalisation(model, data.channels, data.image_size)
)


def classify(images: torch.Tensor) -> torch.Tensor:
    """Classes of images (n, channels, size, size), uint8."""
    with torch.no_grad():
        return network((images / 255 - mean) / std).argmax(1)
'''
"""How a serving system loads a release; it needs torch, torchvision and this package."""

LIMITS = """## Limits

- A verdict is evidence about behaviour against the tests of the audit, at their error rate and \
detection limit; it does
  not say that a law was complied with, or that nothing of the records is left in the weights.
- Accuracy, differences between groups and what the tests can detect stand in the reports of the \
batch.
- An earlier release knows people whom this one forgot: do not go back to one.
"""

KINDS = {
    "unlearned": "The model in use before, made to forget by `{method}`.",
    "retrained": "Trained from scratch without the forgotten records "
    "(the audit's baseline, seed 0).",
}


def _input(settings: Settings) -> str:
    """The normalisation of pixels."""
    model = settings.model
    if model.preset:
        return f"as torchvision's `{model.preset}` normalises"
    means, deviations = (
        ", ".join(map(str, values)) if isinstance(values, tuple) else str(values)
        for values in (model.mean, model.std)
    )
    return f"pixels in 0 … 1, less {means}, divided by {deviations}"


def _chain(links: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table of origins for each earlier model."""
    return "\n".join(
        f"| {link['batch'] or '—'} | {link['method'] or 'brought along'} | "
        f"`{link['weights_sha256'][:16]}` | "
        f"{'`' + link['made_from'][:16] + '`' if link['made_from'] else '—'} |"
        for link in links
    )


def write(
    lineage: Mapping[str, Any],
    verdicts: Sequence[str],
    settings: Settings,
    records: Mapping[str, int],
    versions: Mapping[str, str | None],
    references: Sequence[str],
) -> str:
    """The card as Markdown; no personal data.

    Args:
        lineage: of the release.
        verdicts: on the unlearned model, one per audited request.
        settings: of the batch.
        records: `forgotten` and `retained` training records.
        versions: md5 of the data `before` and `after`.
        references: SHA-256 of the references of the next batch.
    """
    batch, model = lineage["batch"], lineage["model"]
    counted = ", ".join(f"{count} {name}" for name, count in sorted(Counter(verdicts).items()))
    return f"""# {settings.report.system}, release of batch {batch}

{KINDS[model["kind"]].format(method=model["method"])}

| | |
| --- | --- |
| weights | `model.safetensors`, SHA-256 `{model["weights_sha256"]}` |
| architecture | `{settings.model.name}`, {settings.data.classes} classes, \
{settings.data.channels} channels of \
{settings.data.image_size} × {settings.data.image_size} pixels |
| input | {_input(settings)} |
| audit | tag `audit/{batch}`, commit `{lineage["commit"]}` |
| release | tag `release/{batch}` |
| verdicts on the unlearned model | {counted or "none"} |
| records forgotten / left to train on | {records["forgotten"]} / {records["retained"]} |
| data before → after | `{versions["before"]}` → `{versions["after"]}` (DVC) |
| records left, SHA-256 | `{lineage["retained_set_sha256"]}` |
| unlearnings since the last training from scratch | {model["history"]["unlearnings"]} |

## Where it comes from

| batch | method | weights | made from |
| --- | --- | --- | --- |
{_chain(lineage["chain"])}

The recipe is in `lineage.json`. References for the next batch: {len(references)} models in \
`references/{batch}`.

## How it is loaded

`dvc get REPOSITORY releases/{batch} --rev release/{batch} --out served`, then

```python
{LOADER}```

{LIMITS}"""
