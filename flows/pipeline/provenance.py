"""The circumstances of a batch, written once into `ledger/batches/` before its stages run. The
report quotes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.pipeline import audit_log
from flows.reports import overview
from flows.workspace import dvc_graph, git, signing_keys
from tasks.common import cost_ledger, files, settings
from tasks.requests import decisions

PACKAGES = (
    "dvc",
    "great-expectations",
    "numpy",
    "pandas",
    "pillow",
    "prefect",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
    "torchvision",
    "typst",
)
"""Packages whose versions can change a result or its presentation."""
PASSING = ("started", "commit", "earlier")
"""Parts of the circumstances that no result depends on."""


def write(workspace: Path, chosen: settings.Settings) -> Path:
    """File the circumstances of the batch, or leave those on file where only `PASSING` parts
    differ.

    So a batch that is continued, or run again with the same tool, data and settings, gives the same
    report.
    """
    path = workspace / cost_ledger.BATCHES / f"{chosen.batch}.json"
    now = _circumstances(workspace, chosen)
    if not path.exists() or lasting(files.read_json(path)) != lasting(now):
        files.write_json(path, now)
    decided = workspace / decisions.FOLDER / path.name
    if not decided.exists():
        files.write_json(decided, decisions.EMPTY)
    return path


def _circumstances(workspace: Path, chosen: settings.Settings) -> dict[str, Any]:
    import platform

    from tasks import __version__

    return {
        "batch": chosen.batch,
        "started": files.timestamp(),
        "commit": _commit(workspace),
        "tool_version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "data_md5": _data_md5(workspace),
        "remotes": dvc_graph.remotes(workspace),
        "signing": signing_keys.described(signing_keys.load_key(workspace)),
        "changed_settings": _plain(settings.non_defaults(chosen)),
        "earlier": overview.earlier(workspace, chosen.batch),
        "audits": audit_log.earlier(workspace, chosen, _data_md5(workspace)),
    }


def lasting(record: dict[str, Any]) -> dict[str, Any]:
    """The circumstances that can change a result: all but `PASSING`."""
    return {key: value for key, value in record.items() if key not in PASSING}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(workspace: Path) -> str | None:
    return git.commit_of(workspace)


def _data_md5(workspace: Path) -> str | None:
    from ruamel.yaml import YAML

    path = workspace / "data.dvc"
    if not path.exists():
        return None
    return str(YAML(typ="safe").load(path.read_text(encoding="utf-8"))["outs"][0]["md5"])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON knows them: dates as text, tuples as lists."""
    import json

    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
