"""Attacks for the fault campaign: copies that hide from an erasure, copies that come back, and hands
in the register's database.

Each scenario is a round of `benchmarks.faults`. What an attack brings has to be found and named, or
removed where it is the tool's own; else the round notes a broken promise. What a person would have
to mend is mended, and the round goes on to its end.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import sqlite3
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import Fault, Round, World, _some_subjects, _told, _told_ok, approve
from tasks.common import files

REGISTER = Path(".register/register.db")


@dataclass
class Copy:
    """A copy that somebody, or a killed process, left.

    Attributes:
        kind: of the attack.
        shown: what has to stand in the message; None: the tool removes it by itself.
        path: where it lies.
        mend: takes it away, as a person would.
    """

    kind: str
    shown: str | None
    path: Path
    mend: Callable[[], None]


def hidden_copies(world: World, found: Round, _database: Any) -> None:
    """Before an erasure, copies of a person's pictures lie in a dozen places."""
    _released(world)
    batch = _batch(world)
    picture = _pictures(world)[0]
    copies = list(_plant(world, picture))
    code, text = world.give("erase", batch)
    for copy in copies:
        if copy.shown is None:
            held = not copy.path.exists()
            seen = "removed" if held else "OVERLOOKED"
        else:
            held = code != 0 and copy.shown in text
            seen = f"named: {_told(code, text)}"[:80] if held else "NOT NAMED"
        found.faults.append(Fault(copy.kind, "erase", 0.0, seen))
        if not held:
            found.broken.append(f"{copy.kind}: {seen}")
    for copy in copies:
        copy.mend()
    for command in (
        ("reflog", "expire", "--expire=now", "--all"),
        ("gc", "--quiet", "--prune=now"),
    ):
        world.plain("git", *command)
    (world.folder / ".git" / "index.lock").touch()
    code, text = world.give("erase", batch)
    found.faults.append(Fault("index.lock of a killed git", "erase", 0.0, _told(code, text)))
    world.until_done("erase", batch)


def copies_that_come_back(world: World, found: Round, _database: Any) -> None:
    """An old clone is pushed again after the erasure, a backup of the cache is restored, pictures
    lie in the workspace again; and `reproduce` and the re-audit run beside the erasure."""
    remote, before = world.folder.parent / "remote", world.folder.parent / "before"
    remote.mkdir()
    _told_ok(world, "dvc", "remote", "add", "--default", "store", "../remote")
    _told_ok(world, "dvc", "push", "--quiet")
    _told_ok(world, "git", "commit", "--quiet", "--all", "-m", "A remote")
    _released(world)
    batch = _batch(world)
    shutil.copytree(remote, before / "remote")
    shutil.copytree(world.folder / ".dvc/cache", before / "cache")
    _beside(world, found, batch, ("reproduce", f"audit/{batch}"), "reproduce beside an erasure")
    _beside(world, found, batch, ("reaudit",), "re-audit beside an erasure")
    world.until_done("erase", batch)
    cache, again = world.folder / ".dvc/cache", before / "again"
    files.write_bytes(again / "again.png", _pictures(world)[0])
    for kind, source, target in (
        ("old clone pushed again", before / "remote", remote),
        ("old cache restored", before / "cache", cache),
        ("picture put back", again, world.folder / "artifacts"),
    ):
        _restored(source, target)
        code, text = world.give("watch", "--json")
        said = "are there again" in text
        found.faults.append(Fault(kind, "watch", 0.0, "said" if said else f"NOT SAID, exit {code}"))
        if not said:
            found.broken.append(f"{kind}: the watch did not say so")
        world.until_done("erase", batch)
    shutil.rmtree(before)


def hands_in_the_register(world: World, found: Round, _database: Any) -> None:
    """Somebody with the database's password changes requests and events, and shows an older
    state."""
    subjects = _some_subjects(world)
    world.ask(subjects)
    world.until_done("nightly")
    older = (world.folder / REGISTER).read_bytes()
    approve(world)
    world.until_done("watch")  # it anchors the chain's end, as it does daily
    for kind, statement in (
        ("identities swapped", _swap(world)),
        ("deadline changed", "UPDATE requests SET due = '2099-01-01'"),
        ("state changed", "UPDATE requests SET state = 'closed'"),
        ("identity table changed", "DELETE FROM identities"),
        ("event changed", "UPDATE events SET actor = 'somebody' WHERE seq = 2"),
        ("tail cut", "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)"),
        ("event taken out", "DELETE FROM events WHERE seq = 2"),
    ):
        sound = (world.folder / REGISTER).read_bytes()
        with contextlib.closing(sqlite3.connect(world.folder / REGISTER)) as database:
            _without_triggers(database)
            database.execute(statement)
            database.commit()
        _noticed(world, found, kind)
        _put(world, sound)
    sound = (world.folder / REGISTER).read_bytes()
    _put(world, older)
    _noticed(world, found, "older backup shown")
    _put(world, sound)


SCENARIOS: dict[str, Callable[[World, Round, Any], None]] = {
    "hidden copies": hidden_copies,
    "copies that come back": copies_that_come_back,
    "hands in the register": hands_in_the_register,
}


# -- copies ---------------------------------------------------------------------------------------


def _plant(world: World, picture: bytes) -> Iterator[Copy]:
    home = world.folder

    def own(kind: str, name: str, content: bytes, shown: str | None = None) -> Copy:
        path = home / "somewhere" / name
        files.write_bytes(path, content)
        return Copy(kind, shown or f"somewhere/{name}", path, lambda: path.unlink(missing_ok=True))

    yield own("copy among own files", "a.png", picture)
    yield own("copy in another format", "b.bmp", _as_bmp(picture))
    yield own("copy in a zip", "c.zip", _zipped(picture))
    yield own("copy in a gzip", "d.gz", gzip.compress(picture))
    yield own("copy in a tar of zips", "e.tgz", gzip.compress(_tarred(_zipped(picture))))
    yield own("archive that cannot be opened", "f.7z", b"7z\xbc\xaf\x27\x1c" + bytes(64))
    name = next(iter(world.asked.values()))
    yield own("file named after a person", f"x-{name}.dat", b"\0", "somewhere/…")
    yield _staged(world, picture)
    yield _in_a_dropped_stash(world, picture)
    for kind, folder in (
        ("left-over of a removal", ".batches/.removing-old-1"),
        ("folder among the checkouts", ".batches/2020-01-01"),
        ("checkout of an experiment", ".dvc/tmp/exps/standalone/tmp1"),
        ("temporary folder", "../tmp/erasure-audit-old"),
        ("draft of a stage", "artifacts/.draft-1"),
    ):
        path = home / folder / "one.png"
        files.write_bytes(path, picture)
        yield Copy(kind, None, path, lambda: None)


def _staged(world: World, picture: bytes) -> Copy:
    path = world.folder / "somewhere" / "staged.png"
    files.write_bytes(path, picture)
    _told_ok(world, "git", "add", "--force", "somewhere/staged.png")

    def mend() -> None:
        world.plain("git", "rm", "--quiet", "--cached", "somewhere/staged.png")
        path.unlink(missing_ok=True)

    return Copy("file that git tracks", "somewhere/staged.png", path, mend)


def _in_a_dropped_stash(world: World, picture: bytes) -> Copy:
    """A blob that nothing leads to any more; the file itself is named beside it."""
    path = world.folder / "somewhere" / "stashed.png"
    files.write_bytes(path, picture)
    _told_ok(world, "git", "hash-object", "-w", "somewhere/stashed.png")
    return Copy("blob of a dropped stash", "somewhere/stashed.png", path, path.unlink)


def _beside(world: World, found: Round, batch: str, command: tuple[str, ...], kind: str) -> None:
    """Another command runs while the erasure does."""
    other = world.start(*command)
    time.sleep(world.chance.uniform(0, 4))
    code, text = world.give("erase", batch)
    other.communicate(timeout=600)
    found.faults.append(Fault(kind, "erase", 0.0, _told(code, text)))


def _restored(source: Path, target: Path) -> None:
    for path in (path for path in source.rglob("*") if path.is_file()):
        copy = target / path.relative_to(source)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


# -- the register ---------------------------------------------------------------------------------


def _noticed(world: World, found: Round, kind: str) -> None:
    """`requests check` fails, and nothing is released or erased."""
    code, text = world.give("requests", "check")
    held = code != 0
    found.faults.append(Fault(kind, "requests check", 0.0, _told(code, text)))
    if not held:
        found.broken.append(f"{kind}: `requests check` found nothing")
    if "Traceback" in text:
        found.broken.append(f"{kind}: an exception reached the operator")


def _put(world: World, content: bytes) -> None:
    """Put a state of the database back, without what SQLite keeps beside it."""
    for ending in ("-wal", "-shm"):
        (world.folder / f"{REGISTER}{ending}").unlink(missing_ok=True)
    (world.folder / REGISTER).write_bytes(content)


def _swap(world: World) -> str:
    """A statement that makes one request be about the person of another."""
    first, second = sorted(world.asked)[:2]
    return (
        "UPDATE requests SET identities = (SELECT identities FROM requests "  # noqa: S608
        f"WHERE request_id = '{second}') WHERE request_id = '{first}'"
    )


def _without_triggers(database: sqlite3.Connection) -> None:
    """Whoever owns the database can drop what keeps it from being changed."""
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in names:
        database.execute(f'DROP TRIGGER "{name}"')


# -- the round ------------------------------------------------------------------------------------


def _released(world: World) -> None:
    """A batch that is released, and not erased yet."""
    world.ask(_some_subjects(world))
    world.until_done("nightly")
    approve(world)
    world.until_done("release", _batch(world))


def _batch(world: World) -> str:
    batches = {case["batch"] for case in world.register() if case["batch"]}
    return str(sorted(batches)[-1])


def _pictures(world: World) -> list[bytes]:
    return [
        content for subject in world.asked.values() for content in world.records[subject].values()
    ]


def _as_bmp(picture: bytes) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(stream, "BMP")
    return stream.getvalue()


def _zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.png", content)
    return stream.getvalue()


def _tarred(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("inner.zip")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
