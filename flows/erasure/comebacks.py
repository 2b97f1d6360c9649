"""Finds copies that come back after an erasure: somebody pushes an old clone, restores a backup, or
a fetch was under way.

A keyed hash of everything that was erased is kept (HMAC-SHA256 with the key of pseudonyms). It
finds copies again, and reveals nothing without the key.
"""

from __future__ import annotations

import contextlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flows.erasure.hash_memory import HashMemory
from flows.erasure.receipts import FOLDER, read_all
from flows.erasure.stores import dvc, trees
from flows.erasure.stores.git_objects import GitHistory
from flows.erasure.stores.store import FoundCopy, StoreError
from flows.workspace import git, shell
from tasks.common import files
from tasks.common.errors import PseudonymError
from tasks.requests import pseudonyms

ENDING = ".hashes"
"""Ending of the file beside a batch's receipts: the key's id, then one keyed hash per line."""
_DOMAIN = b"erasure-audit/erased\0"

SearchedStore = dvc.DvcObjects | trees.Tree | trees.Temporary | GitHistory


@dataclass
class Comebacks:
    """The result of a search.

    Attributes:
        counts: by batch and store, the number of copies that came back.
        unchecked: a sentence for everything that could not be checked.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything came back."""
        return bool(self.counts)

    @property
    def lines(self) -> list[str]:
        """One sentence per batch, and per thing that could not be checked."""
        sentences = [
            f"Copies of erased records of batch {batch} are there again: "
            f"{', '.join(f'{count} in {store}' for store, count in sorted(stores.items()))}. "
            f"`erasure-audit erase {batch}` erases them"
            for batch, stores in sorted(self.counts.items())
        ]
        return [*sentences, *self.unchecked]


def write_hashes(home: Path, batch: str, hashes: Iterable[str]) -> Path:
    """Write the list of keyed hashes of a batch's erased objects.

    Args:
        home: the workspace; it gets a key of pseudonyms if it has none.
        batch: its name.
        hashes: MD5 of the erased objects, as DVC names them.
    """
    key = pseudonyms.make(home)
    path = home / FOLDER / f"{batch}{ENDING}"
    # a folder's list may also lie around as a plain file, whose MD5 has no ending
    names = {name for oid in hashes for name in (oid, oid.removesuffix(".dir"))}
    lines = sorted(
        {_keyed(key, name) for name in names} | set(_read_hashes(path).get(key.key_id, ()))
    )
    files.write_text(path, "\n".join([key.key_id, *lines]) + "\n")
    return path


def look(home: Path, temporary: Iterable[Path] | None = None) -> Comebacks:
    """Search for everything that was ever erased: in DVC's cache and remotes by the names of the
    objects, in all checkouts and in git by the hash of every file.

    Nothing is erased or fetched. Files that did not change since the last search are not read
    again.

    Args:
        home: the workspace.
        temporary: folders that hold temporary folders; None: the machine's.
    """
    search = _Search(home, None)
    if search.can_look:
        memory = search.memory(home)
        for store in _stores(home, temporary):
            search.visit(store, memory)
        memory.write()
    return search.result


def erase_again(
    home: Path, batch: str, temporary: Iterable[Path] | None = None
) -> tuple[dict[str, int], list[str]]:
    """Erase copies of a batch that came back, as far as they are the tool's files.

    Returns:
        By store, the number of erased copies; and a sentence for everything that remains.
    """
    search = _Search(home, batch)
    erased: dict[str, int] = {}
    remaining: list[str] = []
    for store in _stores(home, temporary) if search.can_look else ():
        findings = search.visit(store)
        erasable = [finding for finding in findings if _may_erase(store, finding)]
        if erasable:
            store.erase(erasable)
            erased[store.name] = len(erasable)
        if len(erasable) < len(findings):
            remaining.append(
                f"{store.name}: {len(findings) - len(erasable)} files that are not the tool's "
                "hold erased data; remove them"
            )
    return erased, [*remaining, *search.result.unchecked]


class _Search:
    def __init__(self, home: Path, batch: str | None) -> None:
        self.result = Comebacks()
        self._batches: dict[str, str] = {}
        self._in_git = {
            document["batch"]
            for document in read_all(home)
            for receipt in document["stores"]
            if receipt["store"] == GitHistory.name and receipt["state"] == "held"
        }
        """batches with known copies in git, whose history is not rewritten"""
        self._key: pseudonyms.PseudonymKey | None = None
        self.result.unchecked += _missing_hashes(home, batch)
        pattern = f"{batch or '*'}{ENDING}"
        listed = [(path, _read_hashes(path)) for path in sorted((home / FOLDER).glob(pattern))]
        if not listed:
            return
        try:
            self._key = pseudonyms.load_key(home)
        except PseudonymError as error:
            self.result.unchecked.append(f"erased records cannot be looked for again: {error}")
            return
        for path, by_key in listed:
            name = path.name.removesuffix(ENDING)
            hashes = by_key.get(self._key.key_id)
            if hashes is None:
                self.result.unchecked.append(
                    f"erased records of batch {name} cannot be looked for again: their list was "
                    "made with another key of pseudonyms"
                )
            self._batches |= dict.fromkeys(hashes or (), name)

    @property
    def can_look(self) -> bool:
        """Whether there is anything to search for, and a key."""
        return self._key is not None and bool(self._batches)

    def memory(self, home: Path) -> HashMemory:
        """The memory of earlier hashes."""
        key = self._key
        if key is None:
            raise PseudonymError("no key of pseudonyms is at hand")
        return HashMemory(home, lambda oid: _keyed(key, oid), key.secret)

    def visit(self, store: SearchedStore, memory: HashMemory | None = None) -> list[FoundCopy]:
        """The copies that came back in one store; without a memory, every file is read."""
        if self._key is None:
            return []
        findings, batches = [], Counter[str]()
        try:
            for address, keyed in _hashes(store, self._key, memory):
                batch = self._batches.get(keyed)
                is_known = isinstance(store, GitHistory) and batch in self._in_git
                if batch is not None and not is_known:
                    findings.append(FoundCopy(address, "records"))
                    batches[batch] += 1
        except StoreError as error:
            self.result.unchecked.append(str(error))
        for batch, count in batches.items():
            self.result.counts.setdefault(batch, {})[store.name] = count
        return findings


def _hashes(
    store: SearchedStore, key: pseudonyms.PseudonymKey, memory: HashMemory | None
) -> Iterator[tuple[str, str]]:
    """The address and the keyed hash of everything in a store."""
    if isinstance(store, dvc.DvcObjects):
        for address, oid in store.hashes():
            yield address, _keyed(key, oid)
    elif isinstance(store, GitHistory):
        for oid, md5 in store.blobs():
            keyed = memory.of_object(oid, md5) if memory else _keyed(key, md5())
            yield f"object {oid[:10]}", keyed
    else:
        for address, path in store.files():
            with contextlib.suppress(OSError):  # somebody removed it meanwhile
                keyed = memory.of_file(path) if memory else _keyed(key, files.md5(path))
                yield address, keyed


def _stores(home: Path, temporary: Iterable[Path] | None) -> Iterator[SearchedStore]:
    cache, remotes = dvc.of_dvc(home)
    yield trees.Tree("workspace", home)
    for number, tree in enumerate(trees.other_checkouts(home), 1):
        yield trees.Tree(f"worktree:{number}", tree)
    yield trees.Temporary(home, temporary)
    yield cache
    for remote in remotes:
        if isinstance(remote, dvc.DvcObjects):
            yield remote
    yield GitHistory(home)


def _may_erase(store: SearchedStore, finding: FoundCopy) -> bool:
    if isinstance(store, GitHistory):
        return False
    return not isinstance(store, trees.Tree) or store.is_ours(finding.key)


def _keyed(key: pseudonyms.PseudonymKey, oid: str) -> str:
    return hmac.digest(key.secret, _DOMAIN + oid.encode(), "sha256").hex()


def _read_hashes(path: Path) -> dict[str, list[str]]:
    """The hashes by the id of their key."""
    return _by_key(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _by_key(text: str) -> dict[str, list[str]]:
    key_id, *hashes = text.split() or [""]
    return {key_id: hashes} if key_id else {}


def _missing_hashes(home: Path, batch: str | None) -> list[str]:
    """A sentence for each list that lacks hashes which git keeps at the tag of the erasure: copies
    of missing hashes would not be found."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    complaints = []
    with git.objects(home) as objects:
        for tag in shell.git(home, "tag", "--list", f"erased/{batch or '*'}").split():
            path = f"{FOLDER.as_posix()}/{tag.removeprefix('erased/')}{ENDING}"
            committed = _by_key((objects.read(f"{tag}:{prefix}{path}") or b"").decode())
            current = _read_hashes(home / path)
            # a list of another key is reported by `_Search`
            if any(
                set(committed[key]) - set(current.get(key, ()))
                for key in committed
                if key in current or not current
            ):
                complaints.append(
                    f"{path} lacks hashes that the tag {tag} keeps, so erased records cannot be "
                    f"looked for again; restore it: git checkout {tag} -- {path}"
                )
    return complaints
