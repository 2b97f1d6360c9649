"""Which objects saw which records: read from every `dvc.lock` and `.dvc` file that git knows.

A model is taken to have seen a record unless it is known that it has not: because the data it was
made from are at hand and do not list the record, or because it was retrained without it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from flows.erasure.matcher import DERIVED, ORIGINAL, REFERENCES
from flows.workspace import shell
from tasks.common.errors import WorkspaceError

DATA, REDERIVED, TRAINED, RETRAINED, MODEL = (
    "data",
    ("verify", "report"),
    "train",
    "retrain",
    ".safetensors",
)
"""The data folder, the stages that run from the scores, the stages whose models have and have not
seen the forget set, and how the file of a model ends."""

PACK = "artifacts/pack/"
"""Where the stage `pack` keeps all records of a version of the data, decoded."""

Read = Callable[[str], bytes | None]


@dataclass(frozen=True)
class State:
    """One state of the workspace.

    Attributes:
        names: tags that it has.
        stages: of `dvc.lock`, by name.
        pointers: md5 of what the `.dvc` files track, by the path that is tracked.
        after: whether it has the released model of the batch in its past.
    """

    names: tuple[str, ...]
    stages: dict[str, Any]
    pointers: dict[str, str]
    after: bool = False

    @property
    def data(self) -> str | None:
        """The version of the data."""
        return self.pointers.get(DATA)

    def on_record(self) -> dict[str, str]:
        """Every path with its md5."""
        entries = [
            entry
            for stage in self.stages.values()
            for entry in (*stage.get("deps", []), *stage.get("outs", []))
        ]
        return {**{str(entry["path"]): str(entry.get("md5")) for entry in entries}, **self.pointers}


def states(folder: Path, release: str | None, others: Iterable[Path] = ()) -> list[State]:
    """Every state that git knows, and those that lie uncommitted in work trees.

    Args:
        folder: the workspace.
        release: tag of the release; None: there is none.
        others: further checkouts.
    """
    tags: dict[str, list[str]] = {}
    for line in shell.git(
        folder, "tag", "--list", "--format=%(refname:short) %(objectname) %(*objectname)"
    ).splitlines():
        name, *hashes = line.split()
        tags.setdefault(hashes[-1], []).append(name)
    later: set[str] = set()
    if release:
        within = shell.git(folder, "rev-list", "--all", "--ancestry-path", f"{release}..").split()
        later = set(within) | {shell.git(folder, "rev-parse", f"{release}^{{commit}}")}
    commits = shell.git(
        folder, "log", "--all", "--full-history", "--format=%H", "--", "dvc.lock", "*.dvc"
    ).split()
    wanted = dict.fromkeys(
        [
            *commits,
            *tags,
            *shell.git(folder, "for-each-ref", "--format=%(objectname)", "refs/heads").split(),
        ]
    )
    with _git_objects(folder) as objects:
        reader = _Reader(objects, shell.git(folder, "rev-parse", "--show-prefix").rstrip("/"))
        found = [
            reader.state(commit, tuple(sorted(tags.get(commit, ()))), commit in later)
            for commit in wanted
        ]
    return [*(state for state in found if state), *(at_hand(tree) for tree in (folder, *others))]


def at_hand(tree: Path) -> State:
    """The state of a work tree as it lies there, committed or not."""
    stages = (
        _stages((tree / "dvc.lock").read_text(encoding="utf-8"))
        if (tree / "dvc.lock").is_file()
        else {}
    )
    pointers: dict[str, str] = {}
    for path in _pointer_files(tree):
        pointers |= _pointer(path.read_text(encoding="utf-8"), path.relative_to(tree).as_posix())
    return State((), stages, pointers)


def versions(found: Iterable[State]) -> set[str]:
    """Every version of the data."""
    known = {state.data for state in found} | {
        str(entry["md5"])
        for state in found
        for stage in state.stages.values()
        for entry in stage.get("deps", [])
        if entry["path"] == DATA and entry.get("md5")
    }
    return {one for one in known if one is not None}


@dataclass
class Saw:
    """What saw the records, by md5 and kind; what verdicts are derived from; what is kept; what is
    no pack of them."""

    models: dict[str, str] = field(default_factory=dict)
    derivation: set[str] = field(default_factory=set)
    keep: set[str] = field(default_factory=set)
    other: set[str] = field(default_factory=set)


def saw(
    found: Iterable[State],
    batch: str,
    lists: Callable[[str], bool | None],
    holds: Callable[[str], bool | None],
    forgets: Callable[[str], bool | None],
    read: Read,
) -> Saw:
    """Which objects saw records of the forget set.

    Args:
        found: the states.
        batch: whose records are erased; its released and retrained models are kept.
        lists: whether a version of the data lists one of the records that a model was trained on;
            None: it is gone.
        holds: whether it lists any of the records that go.
        forgets: whether a list of records to forget (`forget.csv`, by md5) has all of them; None:
            it is gone.
        read: the content of an object.
    """
    result, all_states = Saw(), list(found)
    free = {state.data for state in all_states if state.after and state.data}

    def clean(version: str | None) -> bool:
        return version is None or version in free or lists(version) is False

    packs = _packs(all_states)
    result.other = {
        oid for oid, packed in packs.items() if all(holds(version) is False for version in packed)
    }

    def clean_input(path: str, oid: str) -> bool:
        if path.startswith(PACK):
            return oid in packs and all(map(clean, packs[oid]))
        return path != DATA or clean(oid)

    for state in all_states:
        made = _made(state, clean_input, forgets, read)
        result.other |= _no_packs(state, read)
        result.derivation |= made.derivation
        _add(result.models, made.models)
        for path, oid in state.pointers.items():
            if path == DATA:
                continue
            objects = dict(_objects(oid, path, read))
            if state.after and path in (f"references/{batch}", f"releases/{batch}"):
                result.keep |= objects.keys()
            elif not clean(state.data):
                kind = REFERENCES if path.startswith("references/") else DERIVED
                _add(
                    result.models,
                    {one: kind for one, name in objects.items() if name.endswith(MODEL)},
                )
        result.keep |= made.keep
        if f"audit/{batch}" in state.names:
            _add(result.models, dict.fromkeys(originals(state) & result.models.keys(), ORIGINAL))
    return result


def originals(state: State) -> set[str]:
    """The md5 of the model that had to forget."""
    deps = [
        entry
        for name, stage in state.stages.items()
        if name == "unlearn"
        for entry in stage.get("deps", [])
    ]
    return {
        str(entry["md5"])
        for entry in deps
        if str(entry["path"]).endswith(MODEL) and entry.get("md5")
    }


def _packs(found: Iterable[State]) -> dict[str, set[str]]:
    """The versions of the data that each file of a pack was made from, by its md5."""
    made: dict[str, set[str]] = {}
    for state in found:
        stage = state.stages.get("pack", {})
        versions = {
            str(entry.get("md5")) for entry in stage.get("deps", []) if entry["path"] == DATA
        }
        for entry in stage.get("outs", []):
            made.setdefault(str(entry.get("md5")), set()).update(versions or {"unknown"})
    return made


def _no_packs(state: State, read: Read) -> set[str]:
    """The files that other stages made, and those that `.dvc` files track; the data are images."""
    outs = [entry for stage in state.stages.values() for entry in stage.get("outs", [])]
    tracked = [(path, oid) for path, oid in state.pointers.items() if path != DATA]
    made = {str(entry.get("md5")) for entry in outs if not str(entry["path"]).startswith(PACK)}
    return made | {one for path, oid in tracked for one, _ in _objects(oid, path, read)}


def _add(models: dict[str, str], more: dict[str, str]) -> None:
    rank = (DERIVED, REFERENCES, ORIGINAL)
    for oid, kind in more.items():
        models[oid] = max(kind, models.get(oid, DERIVED), key=rank.index)


def _made(
    state: State,
    clean: Callable[[str, str], bool],
    forgets: Callable[[str], bool | None],
    read: Read,
) -> Saw:
    """What the stages of one state made of the records, one from the other until nothing is
    added."""
    result = Saw()
    for name, stage in state.stages.items():
        if name in REDERIVED:
            entries = [*stage.get("deps", []), *(stage.get("outs", []) if name == "verify" else [])]
            result.derivation |= {str(entry["md5"]) for entry in entries if entry.get("md5")}
    waiting = dict(state.stages)
    while True:
        hit = [name for name, stage in waiting.items() if _reads(stage, clean, result)]
        if not hit:
            return result
        for name in hit:
            stage = waiting.pop(name)
            without = name.partition("@")[0] == RETRAINED and any(
                str(entry["path"]).endswith("forget.csv") and forgets(str(entry.get("md5")))
                for entry in stage.get("deps", [])
            )
            for entry in stage.get("outs", []):
                objects = dict(_objects(str(entry.get("md5")), str(entry["path"]), read))
                if without:
                    result.keep |= objects.keys()
                else:
                    kind = REFERENCES if name.partition("@")[0] == TRAINED else DERIVED
                    result.models |= {
                        one: kind
                        for one, path in objects.items()
                        if one not in result.derivation
                        and not path.endswith((".json", ".csv", ".dir"))
                    }
            for entry in stage.get(
                "deps", []
            ):  # a model of the user's own, trained on the data that the stage reads
                if str(entry["path"]).endswith(MODEL) and entry.get("md5"):
                    result.models.setdefault(str(entry["md5"]), DERIVED)


def _reads(stage: Any, clean: Callable[[str, str], bool], result: Saw) -> bool:
    inputs = [(str(entry["path"]), str(entry.get("md5"))) for entry in stage.get("deps", [])]
    return any(oid in result.models or not clean(path, oid) for path, oid in inputs)


def _objects(oid: str, path: str, read: Read) -> Iterator[tuple[str, str]]:
    """The object itself, and the files in it if it is a folder whose list is there."""
    if not oid or oid == "None":
        return
    if not oid.endswith(".dir"):
        yield oid, path
        return
    yield oid, f"{path}.dir"
    content = read(oid)
    for entry in json.loads(content) if content else []:
        yield str(entry["md5"]), f"{path}/{entry['relpath']}"


class _Reader:
    """Reads states from git; what states have in common, files and whole folders, is read once."""

    def __init__(self, objects: Callable[[str], bytes | None], prefix: str) -> None:
        """Args:
        objects: the content of a git object; None: there is no such.
        prefix: the workspace's folder in the repository.
        """
        self._objects, self._prefix = objects, prefix
        self._locks: dict[str, dict[str, Any]] = {}
        self._below: dict[tuple[str, str], dict[str, str]] = {}

    def state(self, commit: str, names: tuple[str, ...], after: bool) -> State | None:
        """The state of a commit; None: it is none, as what a tag names may be."""
        if self._objects(f"{commit}^{{commit}}") is None:
            return None
        content = self._objects(f"{commit}:{self._prefix}")
        if content is None:  # before the workspace was made
            return State(names, {}, {}, after)
        width = len(commit) // 2
        lock = next((oid for _, name, oid in _entries(content, width) if name == "dvc.lock"), "")
        if lock not in self._locks:
            self._locks[lock] = _stages(self._text(lock)) if lock else {}
        return State(names, self._locks[lock], self._pointers(content, width), after)

    def _pointers(self, tree: bytes, width: int, folder: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for is_folder, name, oid in _entries(tree, width):
            path = f"{folder}{name}"
            if not (is_folder or name.endswith(".dvc")):
                continue
            if (oid, path) not in self._below:
                self._below[oid, path] = (
                    self._pointers(self._must(oid), width, f"{path}/")
                    if is_folder
                    else _pointer(self._text(oid), path)
                )
            found |= self._below[oid, path]
        return found

    def _text(self, oid: str) -> str:
        return self._must(oid).decode()

    def _must(self, oid: str) -> bytes:
        content = self._objects(oid)
        if content is None:  # what is not read cannot be erased
            raise WorkspaceError(
                f"git has lost its object {oid}; see `git fsck`, and fetch what is missing"
            )
        return content


def _entries(tree: bytes, width: int) -> Iterator[tuple[bool, str, str]]:
    """The entries of a git tree: whether it is a folder, its name, and the object's id, which has
    `width` bytes."""
    start = 0
    while start < len(tree):
        end = tree.index(b"\0", start)
        mode, _, name = tree[start:end].partition(b" ")
        start = end + 1 + width
        if mode != b"160000":  # a commit of another repository
            yield (
                mode == b"40000",
                name.decode(errors="surrogateescape"),
                tree[end + 1 : start].hex(),
            )


@contextlib.contextmanager
def _git_objects(folder: Path) -> Iterator[Callable[[str], bytes | None]]:
    """What gives the content of git's objects by name; None: there is no such. One process gives
    all of them."""
    with subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        asked, given = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

        def content(name: str) -> bytes | None:
            asked.write(f"{name}\n".encode())
            asked.flush()
            about = given.readline().split()
            if not about:
                raise WorkspaceError("git cat-file ended; see `git fsck`")
            if about[-1] == b"missing":
                return None
            found = given.read(int(about[-1]))
            given.read(1)  # the end of the line
            return found

        yield content


def _stages(text: str) -> dict[str, Any]:
    found: dict[str, Any] = (_yaml(text) or {}).get("stages") or {}
    return found


def _pointer(text: str, path: str) -> dict[str, str]:
    folder = path.rpartition("/")[0]
    outs = (_yaml(text) or {}).get("outs") or []
    return {
        f"{folder}/{out['path']}" if folder else str(out["path"]): str(out["md5"])
        for out in outs
        if "md5" in out
    }


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def _pointer_files(tree: Path) -> list[Path]:
    names = shell.git(
        tree, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.dvc"
    ).split("\0")
    return [tree / name for name in names if name and (tree / name).is_file()]
