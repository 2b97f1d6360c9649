"""A workspace: the folder with `dvc.yaml`, settings, requests, data and reports that all commands
work in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from flows.workspace import dvc_graph, dvc_locks, shell, signing_keys
from tasks.common import files, settings
from tasks.common.errors import RequestError, WorkspaceError
from tasks.requests import opendsr, pseudonyms

IGNORED = (
    "/data",
    "/artifacts",
    "/models/**",
    "!/models/**/",
    "!/models/**/*.dvc",
    "!/models/**/.gitignore",
    "/keys",
    "/inbox",
    "/.batches",
    "/.erasure",
    "/.prefect",
    "/.register",
    "__pycache__/",
)
"""Paths that git ignores: DVC tracks data, models and artifacts; private keys are never tracked."""

ATTRIBUTES = "* -text"
"""Line of `.gitattributes`: git changes no line ends, whatever `core.autocrlf` says, so files have
the same hashes on every machine."""

CONFIG = """[core]
    analytics = false
    autostage = false
[plots]
    html_template = plots/page.html
"""
"""DVC's settings: no telemetry, and nothing is staged without the user."""

README = """# An erasure audit

Put a batch of deletion requests (OpenDSR, a JSON list) into `requests/<batch>.json`, then

    erasure-audit import --help   # once: the records that the model was trained on
    erasure-audit run <batch>     # forget, verify, report
    erasure-audit show <request>

`params.yaml` holds the settings, `dvc.yaml` the pipeline, `reports/<batch>/` the results.
"""

DIGITS = "embedded digits"
"""Mark in `data.dvc` (`meta: source`) of data that can be made again."""


def find(start: Path) -> Path:
    """The workspace that a folder lies in.

    Raises:
        WorkspaceError: neither the folder nor one above it holds `dvc.yaml` and `.dvc`.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / ".dvc").is_dir() and (folder / "dvc.yaml").is_file():
            return folder
    raise WorkspaceError(f"{start.resolve()} is in no workspace; `erasure-audit init` makes one")


def init(folder: Path) -> None:
    """Make a workspace in a new or empty folder, or in a git repository that has no `dvc.yaml` yet.

    Raises:
        WorkspaceError: it is one already, or git or DVC is missing or fails.
    """
    if (folder / "dvc.yaml").exists() or (folder / ".dvc").exists():
        raise WorkspaceError(f"{folder} holds a DVC pipeline already; choose a new folder")
    shipped = shipped_files()
    folder.mkdir(parents=True, exist_ok=True)
    if not shell.succeeds(folder, "rev-parse", "--git-dir"):
        shell.git(folder, "init", "--quiet")
    shell.dvc(folder, "init", *([] if (folder / ".git").exists() else ["--subdir"]))
    files.write_text(folder / ".dvc" / "config", CONFIG)
    _add_lines(folder / ".gitignore", IGNORED)
    _add_lines(folder / ".gitattributes", (ATTRIBUTES,))
    _write_if_missing(folder / "README.md", README)
    _write_if_missing(folder / "params.yaml", settings.defaults_yaml())
    (folder / "requests").mkdir(exist_ok=True)
    (folder / "inbox").mkdir(exist_ok=True)
    _copy_if_missing(shipped / "reports" / "templates", folder / "reports" / "templates")
    _copy_if_missing(shipped / ".dvc" / "plots", folder / ".dvc" / "plots")
    _copy_if_missing(shipped / "prefect.yaml", folder / "prefect.yaml")
    signing_keys.make_development(folder)
    pseudonyms.make(folder)
    _copy_if_missing(
        shipped / "dvc.yaml", folder / "dvc.yaml"
    )  # last: it makes the folder a workspace


DEMO = ("unlearn.reset=0.8", "unlearn.rivals.epochs=8")
"""Settings of the batch `demo`. It shows each answer of the test, so each must come out clearly on
every machine. How often the test errs stands in docs/verification.md."""


def demo_settings_yaml() -> str:
    """The text of a `params.yaml` for the batch `demo`: every default, and `DEMO`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(settings.defaults_yaml(), encoding="utf-8")
        settings.assign(path, list(DEMO))
        return path.read_text(encoding="utf-8")


def lay_demo(folder: Path) -> None:
    """Put the batch `demo` into the workspace, if it has none."""
    _copy_if_missing(shipped_files() / "requests" / "demo.json", folder / "requests" / "demo.json")


def choose(folder: Path, batch: str | None, assignments: list[str]) -> settings.Settings:
    """Write the batch and other settings into `params.yaml`, where DVC versions them.

    Raises:
        SettingsError: an unknown key or a value out of range; nothing is written.
        RequestError: the batch has no file of requests; nothing is written.
    """
    params = folder / "params.yaml"
    all_assignments = [*assignments, *([f"batch={_quoted(batch)}"] if batch is not None else [])]
    batches = [text.partition("=")[2] for text in all_assignments if text.startswith("batch=")]
    current = settings.load(params)
    _check_requests(folder, batches[-1].strip("\"' ") if batches else current.batch)
    return settings.assign(params, all_assignments) if all_assignments else current


def prepare(
    folder: Path, batch: str | None, assignments: list[str]
) -> tuple[settings.Settings, set[str]]:
    """Make the workspace ready for a run: settings written, data present and tracked, remains of
    killed runs removed.

    Returns:
        The settings, and the names of the stages that are stale.

    Raises:
        AuditError: as `choose`, `ensure_data` and `graph.stale`.
    """
    chosen = choose(folder, batch, assignments)
    if (folder / "data").exists() and not (folder / "data.dvc").exists():
        track_data(folder)
    ensure_data(folder)
    dvc_locks.sweep(folder)
    prune(folder, chosen)
    for stage in ("train", "retrain"):  # without blocks the folder is empty, not missing
        (folder / "artifacts" / stage).mkdir(parents=True, exist_ok=True)
    stale = dvc_graph.stale(folder)
    if "data.dvc" in stale:  # the records were edited, and stages read them as they are now
        track_data(folder)
    return chosen, {name for name in stale if not name.endswith(".dvc")}


def prune(folder: Path, chosen: settings.Settings) -> list[str]:
    """Remove the models of blocks and rungs that are no longer in the settings, so that no verdict
    counts them.

    They stay in DVC's cache. Returns the folders removed, relative to the workspace.
    """
    rungs = list(chosen.ladder.rungs)
    chosen_names = {
        "train": list(map(str, chosen.references.with_blocks)),
        "retrain": list(map(str, chosen.references.without_blocks)),
        "climb": rungs,
        "ladder": [settings.FIRST, *rungs],
    }
    removed = []
    for stage, blocks in chosen_names.items():
        for block in sorted((folder / "artifacts" / stage).glob("*")):
            kept_by = block.name.removeprefix(".").removesuffix("-kept")  # models of a cut-off run
            if block.is_dir() and kept_by not in blocks:
                shutil.rmtree(block)
                removed.append(block.relative_to(folder).as_posix())
    return removed


def track_data(folder: Path, source: str | None = None) -> None:
    """Track `data/` as it is now: hashes go into `data.dvc`, content into DVC's cache.

    Args:
        folder: the workspace.
        source: where the data came from; `DIGITS` marks data that can be made again.
    """
    shell.dvc(folder, "add", "data")
    if source is not None:
        _mark(folder / "data.dvc", source)


def ensure_data(folder: Path) -> str:
    """Restore `data/` as `data.dvc` records it, from the cache or a remote, or by making it again.

    Returns:
        Where the data came from: "present", "cache", "remote" or "made".

    Raises:
        WorkspaceError: there is no `data.dvc`, the data are kept nowhere, or the data that were
            made have other hashes.
    """
    if not (folder / "data.dvc").exists():
        raise WorkspaceError(
            "no data.dvc; `erasure-audit import` brings in the records, for example `import digits`"
        )
    if (folder / "data").exists():
        return "present"
    with dvc_locks.using(folder):
        return _bring_data(folder)


def _bring_data(folder: Path) -> str:
    for source, bring in {"cache": "checkout", "remote": "pull"}.items():
        if (source == "cache" or dvc_graph.has_remote(folder)) and _brings(folder, bring):
            return source
    _remake(folder, _digits)
    return "made"


def _remake(folder: Path, make: Callable[[Path], object]) -> None:
    if _source(folder / "data.dvc") != DIGITS:
        raise WorkspaceError(
            "the records of data.dvc are neither in DVC's cache nor in a remote; add the remote "
            "that holds them"
            " (`dvc remote add`), or import them anew"
        )
    try:
        make(folder / "data")
        is_same = (
            dvc_graph.content_hash(folder / "data") == dvc_graph.data_folders(folder)["data.dvc"]
        )
    except BaseException:
        shutil.rmtree(folder / "data", ignore_errors=True)
        raise
    if not is_same:
        shutil.rmtree(folder / "data")
        raise WorkspaceError(
            "the embedded digits that this machine makes differ from those that data.dvc records; "
            "fetch them from"
            " a DVC remote, or take this machine's with `erasure-audit import digits`"
        )
    shell.dvc(folder, "commit", "--force", "data.dvc")


def _digits(target: Path) -> object:
    from tasks.data.importers import digits

    return digits.import_data(target)


def _brings(folder: Path, command: str) -> bool:
    """Whether DVC restored the data; a partial copy is removed."""
    try:
        shell.dvc(folder, command, "data.dvc")
    except WorkspaceError:
        shutil.rmtree(folder / "data", ignore_errors=True)
    return (folder / "data").exists()


def shipped_files() -> Path:
    """The folder of the pipeline, templates and example of this installation: in the wheel, or in
    the repository."""
    package = Path(settings.__file__).parents[1]
    for folder in (package / "_workspace", package.parent):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise WorkspaceError("this installation lacks dvc.yaml; install erasure-audit again")


def missing_input(folder: Path, batch: str) -> str | None:
    """Why a batch cannot run, with the next step; None: it can."""
    if not (folder / "data.dvc").exists() and not (folder / "data").exists():
        return (
            "there are no records yet; see `erasure-audit import --help`, or run "
            "`erasure-audit demo` for an example"
        )
    if not (folder / "requests" / f"{batch}.json").is_file():
        return (
            f"there is no requests/{batch}.json; put the batch's requests there, or let the "
            "intake collect them (`erasure-audit intake drop`, `nightly`)"
        )
    return None


def _check_requests(folder: Path, batch: str) -> None:
    path = folder / "requests" / f"{batch}.json"
    if not path.is_file():
        batches = sorted(file.stem for file in (folder / "requests").glob("*.json"))
        raise RequestError(
            f"requests/{batch}.json: no such file; put the batch's requests there. Batches here: "
            f"{', '.join(batches) or 'none; `erasure-audit demo` makes an example'}"
        )
    opendsr.refuse_future(path, datetime.now(UTC))


def _quoted(batch: str) -> str:
    """The name as YAML text, so that 2026 stays a name."""
    import json

    return json.dumps(batch)


def _source(path: Path) -> str | None:
    from ruamel.yaml import YAML

    meta = YAML(typ="safe").load(path.read_text(encoding="utf-8")).get("meta") or {}
    return meta.get("source")


def _mark(path: Path, source: str) -> None:
    from io import StringIO

    from ruamel.yaml import YAML

    yaml, text = YAML(), StringIO()
    document = yaml.load(path.read_text(encoding="utf-8"))
    document["meta"] = {**(document.get("meta") or {}), "source": source}
    yaml.dump(document, text)
    files.write_text(path, text.getvalue())


def _add_lines(path: Path, lines: Iterable[str]) -> None:
    present = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    missing = (line for line in lines if line not in present)
    files.write_text(path, "\n".join([*present, *missing]) + "\n")


def _write_if_missing(path: Path, text: str) -> None:
    if not path.exists():
        files.write_text(path, text)


def _copy_if_missing(source: Path, target: Path) -> None:
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
