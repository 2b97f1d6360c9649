"""Copies that come back after an erasure: an old clone that is pushed again, a backup that is
restored, a fetch that was under way.

Of everything that was erased a keyed hash stays, HMAC-SHA256 with the key of pseudonyms, so that
later looks can find it again although the list names nothing to those without the key.
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
from flows.erasure.stores.git import GitHistory
from flows.erasure.stores.store import FoundCopy, StoreError
from flows.workspace import git, shell
from tasks.common import files
from tasks.common.errors import PseudonymError
from tasks.requests import pseudonyms

ENDING = ".hashes"
"""Of the file beside a batch's receipts: the key's id, then one keyed hash per line."""
_DOMAIN = b"erasure-audit/erased\0"

Place = dvc.DvcObjects | trees.Tree | trees.Temporary | GitHistory


@dataclass
class Comebacks:
    """What one look brought.

    Attributes:
        counts: by batch and store, how many copies were there again.
        unchecked: what could not be looked for or at, with the reason.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything came back."""
        return bool(self.counts)

    @property
    def lines(self) -> list[str]:
        """One sentence per batch, and per thing that could not be checked."""
        found = [
            f"Copies of erased records of batch {batch} are there again: "
            f"{', '.join(f'{count} in {store}' for store, count in sorted(stores.items()))}. "
            f"`erasure-audit erase {batch}` erases them"
            for batch, stores in sorted(self.counts.items())
        ]
        return [*found, *self.unchecked]


def keep(home: Path, batch: str, hashes: Iterable[str]) -> Path:
    """Write the keyed list of what a batch's erasure erased.

    Args:
        home: the workspace; it gets a key of pseudonyms if it has none.
        batch: its name.
        hashes: MD5 of what was erased, as DVC names it.
    """
    key = pseudonyms.make(home)
    path = home / FOLDER / f"{batch}{ENDING}"
    # a folder's list lies about as a plain file, too, whose MD5 has no ending
    names = {name for oid in hashes for name in (oid, oid.removesuffix(".dir"))}
    lines = sorted({_keyed(key, name) for name in names} | set(_read(path).get(key.key_id, ())))
    files.write_text(path, "\n".join([key.key_id, *lines]) + "\n")
    return path


def look(home: Path, temporary: Iterable[Path] | None = None) -> Comebacks:
    """Look for everything that was ever erased: in DVC's cache and remotes by the names of the
    objects, in all checkouts and in git by the hash of every file.

    Nothing is erased and nothing is fetched. Files that did not change since the last look are not
    read again.

    Args:
        home: the workspace.
        temporary: folders in which temporary folders lie; None: the machine's.
    """
    search = _Search(home, None)
    if search.can_look:
        memory = search.memory(home)
        for place in _places(home, temporary):
            search.visit(place, memory)
        memory.write()
    return search.result


def erase_again(
    home: Path, batch: str, temporary: Iterable[Path] | None = None
) -> tuple[dict[str, int], list[str]]:
    """Erase what of a batch came back, as far as it is the tool's to erase.

    Returns:
        By store, how many copies were erased; and what is left, one sentence each.
    """
    search = _Search(home, batch)
    erased: dict[str, int] = {}
    left: list[str] = []
    for place in _places(home, temporary) if search.can_look else ():
        findings = search.visit(place)
        own = [finding for finding in findings if _may_erase(place, finding)]
        if own:
            place.erase(own)
            erased[place.name] = len(own)
        if len(own) < len(findings):
            left.append(
                f"{place.name}: {len(findings) - len(own)} files that are not the tool's hold what "
                "was erased; see to them"
            )
    return erased, [*left, *search.result.unchecked]


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
        """batches of which git is known to hold something: its history is not rewritten"""
        self._key: pseudonyms.PseudonymKey | None = None
        self.result.unchecked += _lost(home, batch)
        pattern = f"{batch or '*'}{ENDING}"
        listed = [(path, _read(path)) for path in sorted((home / FOLDER).glob(pattern))]
        if not listed:
            return
        try:
            self._key = pseudonyms.at_hand(home)
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
        """Whether there is anything to look for, and the key to do it with."""
        return self._key is not None and bool(self._batches)

    def memory(self, home: Path) -> HashMemory:
        """What files were hashed to before."""
        key = self._key
        if key is None:
            raise PseudonymError("no key of pseudonyms is at hand")
        return HashMemory(home, lambda oid: _keyed(key, oid), key.secret)

    def visit(self, place: Place, memory: HashMemory | None = None) -> list[FoundCopy]:
        """What came back in one store; without a memory, every file is read."""
        if self._key is None:
            return []
        findings, batches = [], Counter[str]()
        try:
            for address, keyed in _hashes(place, self._key, memory):
                batch = self._batches.get(keyed)
                known = isinstance(place, GitHistory) and batch in self._in_git
                if batch is not None and not known:
                    findings.append(FoundCopy(address, "records"))
                    batches[batch] += 1
        except StoreError as error:
            self.result.unchecked.append(str(error))
        for batch, count in batches.items():
            self.result.counts.setdefault(batch, {})[place.name] = count
        return findings


def _hashes(
    place: Place, key: pseudonyms.PseudonymKey, memory: HashMemory | None
) -> Iterator[tuple[str, str]]:
    """The address and the keyed hash of everything in a store."""
    if isinstance(place, dvc.DvcObjects):
        for address, oid in place.hashes():
            yield address, _keyed(key, oid)
    elif isinstance(place, GitHistory):
        for oid, md5 in place.blobs():
            keyed = memory.of_object(oid, md5) if memory else _keyed(key, md5())
            yield f"object {oid[:10]}", keyed
    else:
        for address, path in place.files():
            with contextlib.suppress(OSError):  # somebody removed it meanwhile
                keyed = memory.of_file(path, trees.md5) if memory else _keyed(key, trees.md5(path))
                yield address, keyed


def _places(home: Path, temporary: Iterable[Path] | None) -> Iterator[Place]:
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


def _may_erase(place: Place, finding: FoundCopy) -> bool:
    if isinstance(place, GitHistory):
        return False
    return not isinstance(place, trees.Tree) or place.is_ours(finding.key)


def _keyed(key: pseudonyms.PseudonymKey, oid: str) -> str:
    return hmac.digest(key.secret, _DOMAIN + oid.encode(), "sha256").hex()


def _read(path: Path) -> dict[str, list[str]]:
    """The hashes by the id of the key that they were made with."""
    return _by_key(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _by_key(text: str) -> dict[str, list[str]]:
    key_id, *hashes = text.split() or [""]
    return {key_id: hashes} if key_id else {}


def _lost(home: Path, batch: str | None) -> list[str]:
    """What the lists lack of those that git keeps at the tags of erasures: without a list nothing
    could come back."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    lost = []
    with git.objects(home) as objects:
        for tag in shell.git(home, "tag", "--list", f"erased/{batch or '*'}").split():
            path = f"{FOLDER.as_posix()}/{tag.removeprefix('erased/')}{ENDING}"
            kept = _by_key((objects.read(f"{tag}:{prefix}{path}") or b"").decode())
            here = _read(home / path)
            # with another key the list is another one, which is said where it is used
            if any(
                set(kept[key]) - set(here.get(key, ())) for key in kept if key in here or not here
            ):
                lost.append(
                    f"{path} lacks what the tag {tag} keeps, so erased records cannot be looked "
                    f"for again; bring it back: git checkout {tag} -- {path}"
                )
    return lost
