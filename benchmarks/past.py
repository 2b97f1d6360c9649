"""Make past batches for a workspace that has closed one: twins of it, as after months of operation.

Each has the commits, tags and branch of the closed batch, its entries in `dvc.lock`, its pointers,
reports, receipts, events in the register, and objects in DVC's cache: content and hash of its own
for each of those that are kept, and none for those that were erased. Only the way it came about
differs, so a hundred take seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from flows.agents import parcel
from flows.intake import pseudonymise
from flows.register.anchors import HEADS
from flows.register.register import Head, Register, State, opened
from flows.workspace import shell
from tasks.common import files
from tasks.common.errors import WorkspaceError

STEPS = ("audit", "release", "erased")
"""Tags of a closed batch, in their order."""
FOLDERS = ("releases", "references")
"""Where a released batch keeps something in the workspace."""
WAY = (
    State.IDENTITY_VERIFIED,
    State.BATCHED,
    State.AUDITED,
    State.AWAITING_SIGNOFF,
    State.RELEASED,
    State.ERASED,
    State.CLOSED,
)
_WHO = "Operator <operator@example.org> 1790000000 +0000"
_BRANCH = "refs/heads/past"
_MD5 = re.compile(r"\b([0-9a-f]{32})(\.dir)?\b")


def add(home: Path, number: int) -> None:
    """Add past batches to a workspace; its current state does not change.

    Raises:
        WorkspaceError: it has no closed batch, or git fails.
    """
    model = sorted(
        name.removeprefix("erased/")
        for name in shell.git(home, "tag", "--list", "erased/*").split()
    )
    if not model:
        raise WorkspaceError("no batch was closed here, so there is none to take twins of")
    with opened(home) as register:
        twins = [_twin(home, register, model[0], place) for place in range(1, number + 1)]
    steps = [_changed(home, f"{step}/{model[0]}") for step in STEPS]
    parts = [f"reset {_BRANCH}\nfrom {shell.git(home, 'rev-parse', 'HEAD')}\n".encode()]
    parts += [part for twin in twins for part in twin.history(steps)]
    parts.append(_commit("The state at hand", _at_hand(home, [twin.name for twin in twins])))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=home, input=b"".join(parts), check=True)
    shell.git(home, "merge", "--quiet", "--ff-only", _BRANCH)
    shell.git(home, "update-ref", "-d", _BRANCH)
    for twin in twins:
        twin.lay_out(home)


@dataclass
class _Twin:
    """A batch like another one, with names and objects of its own.

    Attributes:
        number: from 1 on.
        model: name of the batch that it is like.
        cache: DVC's objects.
        requests: ids of its requests, by those of the other.
        head: end of the register's chain when it was audited.
    """

    number: int
    model: str
    cache: Path
    requests: dict[str, str]
    head: Head | None = None
    _objects: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A day, as batches of the night are called."""
        return (date.fromisoformat(self.model[:10]) - timedelta(days=self.number)).isoformat()

    def text(self, content: bytes) -> bytes:
        """A file in git with the twin's own names and hashes; binary files stay unchanged."""
        try:
            replaced = content.decode()
        except UnicodeDecodeError:
            return content
        for old, new in {self.model: self.name, **self.requests}.items():
            replaced = replaced.replace(old, new)
        return replaced.encode()

    def hashes(self, content: bytes) -> bytes:
        """`dvc.lock` or a pointer."""
        rewritten = _MD5.sub(lambda match: self.object(match[0]), content.decode())
        return self.text(rewritten.encode())

    def object(self, oid: str) -> str:
        """The twin's own object for one in the cache, or only a hash where that one is erased."""
        if oid not in self._objects:
            path = self.cache / oid[:2] / oid[2:]
            if not path.exists():
                self._objects[oid] = f"{_md5(f'{self.number} {oid}'.encode())}{oid[32:]}"
            elif oid.endswith(".dir"):
                listed = [
                    {**entry, "md5": self.object(entry["md5"])}
                    for entry in json.loads(path.read_bytes())
                ]
                self._objects[oid] = self._keep(json.dumps(listed, sort_keys=True).encode(), ".dir")
            else:
                self._objects[oid] = self._keep(path.read_bytes() + b" " * self.number)
        return self._objects[oid]

    def history(self, steps: Sequence[dict[str, bytes]]) -> Iterator[bytes]:
        """Its commits and names, for `git fast-import`."""
        for step, changed in zip(STEPS, steps, strict=True):
            contents = {
                self._path(path): self._content(path, content) for path, content in changed.items()
            }
            if step == "audit" and self.head:
                contents[(HEADS / f"{self.name}.json").as_posix()] = json.dumps(
                    vars(self.head)
                ).encode()
            title = f"{step} of batch {self.name}"
            yield _commit(title, contents)
            yield f"tag {step}/{self.name}\nfrom {_BRANCH}\ntagger {_WHO}\n".encode() + _data(
                title.encode()
            )
            if step == "audit":
                yield f"reset refs/heads/batch/{self.name}\nfrom {_BRANCH}\n".encode()

    def _path(self, path: str) -> str:
        return self.text(path.encode()).decode()

    def _content(self, path: str, content: bytes) -> bytes:
        return self.hashes(content) if path.endswith((".dvc", "dvc.lock")) else self.text(content)

    def lay_out(self, home: Path) -> None:
        """The folders that DVC has checked out in the workspace."""
        for folder in FOLDERS:
            source, target = home / folder / self.model, home / folder / self.name
            if not source.is_dir():
                continue
            shutil.copytree(source, target)
            for path in filter(Path.is_file, target.rglob("*")):
                path.chmod(0o644)
                path.write_bytes(path.read_bytes() + b" " * self.number)

    def _keep(self, content: bytes, ending: str = "") -> str:
        oid = f"{_md5(content)}{ending}"
        path = self.cache / oid[:2] / oid[2:]
        if not path.exists():
            files.write_bytes(path, content)
            path.chmod(0o444)
        return oid


def _twin(home: Path, register: Register, model: str, number: int) -> _Twin:
    """A twin whose requests are in the register, from their receipt to their closing."""
    cases = register.cases(batch=model)
    ids = {
        case.request_id: str(uuid.UUID(int=number << 64 | place, version=4))
        for place, case in enumerate(cases)
    }
    twin = _Twin(number, model, parcel.cache_of(home) / "files" / "md5", ids)
    for case in cases:
        identity = {
            "identity_type": "controller_customer_id",
            "identity_value": f"gone-{number}-{case.request_id}",
            "identity_format": "raw",
        }
        value = {
            "subject_request_id": ids[case.request_id],
            "subject_request_type": "erasure",
            "regulation": case.regulation,
            "submitted_time": case.submitted,
            "api_version": "1.0",
            "subject_identities": [identity],
        }
        register.receive(pseudonymise.take_in(home, value), "past", "drop")
    own = list(ids.values())
    for state in WAY:
        verdicts = (
            {ids[case.request_id]: case.verdict or "pass" for case in cases}
            if state is State.AUDITED
            else None
        )
        register.move(
            own,
            state,
            "past",
            batch=twin.name if state is State.BATCHED else None,
            verdicts=verdicts,
        )
        if state is State.AUDITED:
            twin.head = register.head()
        if state is State.AWAITING_SIGNOFF:
            for event in register.history(batch=model):
                if event.request_id is None:
                    register.note(event.kind, event.actor, batch=twin.name, **event.details)
    return twin


def _changed(home: Path, tag: str) -> dict[str, bytes]:
    """The files that a closed batch's commit has and its first parent has not, or not so."""
    names = shell.git(
        home, "diff", "--name-only", "--no-renames", "--diff-filter=d", "-z", f"{tag}^1", tag
    )
    return {name: _content(home, f"{tag}:{name}") for name in names.split("\0") if name}


def _content(home: Path, name: str) -> bytes:
    return subprocess.run(
        ["git", "cat-file", "blob", name], cwd=home, check=True, capture_output=True
    ).stdout


def _at_hand(home: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files that every batch rewrites, as they are now, to restore them later; DVC's folders
    are ignored."""
    contents = {
        path: _content(home, f"HEAD:{path}") for path in ("dvc.lock", "data.dvc", "params.yaml")
    }
    more = "".join(f"/{name}\n" for name in names).encode()
    ignored = (
        f"{folder}/.gitignore" for folder in FOLDERS if (home / folder / ".gitignore").exists()
    )
    return contents | {path: _content(home, f"HEAD:{path}") + more for path in ignored}


def _commit(title: str, contents: dict[str, bytes]) -> bytes:
    head = f"commit {_BRANCH}\ncommitter {_WHO}\n".encode() + _data(title.encode())
    changes = (
        b"M 100644 inline %s\n%s" % (path.encode(), _data(content))
        for path, content in contents.items()
    )
    return head + b"".join(changes)


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
