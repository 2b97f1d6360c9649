"""Attacks for the fault campaign: copies that hide from an erasure, copies that come back, and
hands in the register's database.

Each scenario is a round of `benchmarks.faults`. What an attack brings has to be found and named, or
removed where it is the tool's own; else the round notes a broken promise. What a person would have
to mend is mended, and the round goes on to its end.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import random
import shutil
import sqlite3
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import stand_in
from benchmarks.faults import (
    FINALIZING,
    Fault,
    Round,
    World,
    _kill,
    _some_subjects,
    _told,
    _told_ok,
    approve,
    finish,
)
from tasks.common import files

REGISTER = Path(".register/register.db")
RANDOM_CHANGES = 120
DEAD = "http://127.0.0.1:9"
"""Where nobody answers."""
_SOMEBODY = ("-c", "user.name=Agent", "-c", "user.email=agent@example.org")


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
    """Before an erasure, copies of a person's pictures lie in dozens of places."""
    _erased_around(world, found, _plant)


def copies_in_other_forms(world: World, found: Round, _database: Any) -> None:
    """Before an erasure, pictures and names of a person stand inside of other files."""
    _erased_around(world, found, _plant_forms)


def _erased_around(
    world: World, found: Round, plant: Callable[[World, bytes], Iterator[Copy]]
) -> None:
    """Plant copies, erase, see that each is removed or named, mend what was named, and go on."""
    _released(world)
    batch = _batch(world)
    copies = list(plant(world, _pictures(world)[0]))
    code, text = world.give("erase", batch)
    receipts = world.folder / "ledger/erasures" / f"{batch}.json"
    if receipts.exists():  # what git holds is no error, and stands in its receipt
        text += receipts.read_text(encoding="utf-8")
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
    shutil.rmtree(world.folder / "somewhere", ignore_errors=True)
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


def hands_in_the_register(world: World, found: Round, database: Any) -> None:
    """Somebody with the database's password changes requests and events, and shows an older
    state: in SQLite, or in PostgreSQL where the round has a server."""
    hands: Any = PostgresHands(world, database) if database else SqliteHands(world)
    world.ask(_some_subjects(world))
    world.until_done("nightly")
    older = hands.keep()
    approve(world)
    sound = hands.keep()
    for kind, statements in _tampering(world):
        hands.change(statements)
        _noticed(world, found, f"{kind}{hands.where}")
        hands.show(sound)
    hands.change(_agreeing(world))
    hands.change(_anew(hands))
    _noticed(world, found, f"row and event changed to agree, all hashes made anew{hands.where}")
    hands.show(sound)
    hands.change(hands.trap)
    first = sorted(world.asked)[0]
    code, text = world.give("requests", "hold", first, "--by", "officer", "--reason", "a claim")
    kind = f"trigger that changes what is written{hands.where}"
    found.faults.append(Fault(kind, "requests hold", 0.0, _told(code, text)))
    if code == 0 or "stored other values" not in text:
        found.broken.append(f"{kind}: it was vouched for")
    hands.show(sound)
    _hands_on_the_keys(world, found, hands.where)
    hands.show(older)
    _noticed(world, found, f"older backup shown{hands.where}")
    hands.show(sound)
    if world.give("requests", "check")[0] != 0:
        found.broken.append("the sound register is not taken for sound")


def _hands_on_the_keys(world: World, found: Round, where: str) -> None:
    """Somebody removes, empties or exchanges what is kept outside the database."""
    for name, kind, change in (
        ("chain.end", "kept end removed", Path.unlink),
        ("chain.end", "kept end emptied", lambda path: path.write_bytes(b"")),
        ("chain.end", "kept end changed", lambda path: path.write_bytes(b"{}")),
        ("chain.key", "key removed", Path.unlink),
        ("chain.key", "another key", lambda path: path.write_text("e" * 64)),
    ):
        path = world.folder / "keys" / name
        content = path.read_bytes()
        change(path)
        _noticed(world, found, f"{kind}{where}")
        path.write_bytes(content)
        path.chmod(0o600)


def random_changes(world: World, found: Round, _database: Any) -> None:
    """One cell or row of the register after another is changed, cut or taken out, at random; each
    has to be noticed, by an error that says so."""
    from flows.register import anchors
    from flows.register.register import Register, RegisterError

    hands = SqliteHands(world)
    world.ask(_some_subjects(world))
    world.until_done("intake", "drop")
    sound = hands.keep()
    for _ in range(RANDOM_CHANGES):
        kind, statement = hands.random_change(world.chance)
        hands.change([statement])
        with contextlib.closing(Register(world.folder)) as register:
            try:
                anchors.check(world.folder, register)
                seen = "NOT NOTICED"
            except RegisterError as error:
                seen = f"exit 1: {error}"[:160]
            except Exception as error:  # whatever it is, an operator would see a traceback
                seen = f"TRACEBACK {type(error).__name__}"
        found.faults.append(Fault(kind, "requests check", 0.0, seen))
        if not seen.startswith("exit 1"):
            found.broken.append(f"{kind}: {seen} ({statement})")
        hands.show(sound)


def in_postgres(world: World, found: Round, database: Any) -> None:
    """The register lies in PostgreSQL; hands in it, and an erasure that is killed."""
    hands_in_the_register(world, found, database)
    for _ in range(2):
        found.faults += _kill(
            world, ("finalize",), world.chance.uniform(0.5, FINALIZING), whole_group=True
        )


def erasure_beside_an_audit(world: World, found: Round, _database: Any) -> None:
    """While one batch is erased, the next one is taken in and audited; and then that one is erased,
    with references that were carried over, while a third comes in."""
    first = _some_subjects(world)
    world.ask(first)
    world.until_done("nightly")
    approve(world)
    world.until_done("release", _batch(world))
    rest = [number for number in range(stand_in.SUBJECTS) if number not in first]
    for kind, name in (
        ("erasure beside the next audit", _batch(world)),
        ("erasure of carried references beside an audit", None),
    ):
        picked = world.chance.sample(rest, 2)
        rest = [number for number in rest if number not in picked]
        world.ask(picked)
        if name is None:
            world.until_done("nightly")
            approve(world)
            name = _batch(world)
            world.until_done("release", name)
        night = world.start("nightly")
        time.sleep(world.chance.uniform(0, 6))
        code, text = world.give("erase", name)
        said, _ = night.communicate(timeout=600)
        found.faults.append(Fault(kind, "erase", 0.0, _told(code, text)))
        found.faults.append(Fault(kind, "nightly", 0.0, _told(night.returncode, said)))
        if "Traceback" in text + said:
            found.broken.append(f"{kind}: an exception reached the operator")
        world.until_done("erase", name)
        finish(world)


def in_a_bucket(world: World, found: Round, _database: Any) -> None:
    """The remote is an S3 bucket: it keeps versions, is away during the erasure, and an old clone
    puts its objects there again afterwards."""
    from benchmarks import network

    os.environ.update(network.CREDENTIALS)
    with network.s3_store() as (endpoint, client):
        world.environment |= network.CREDENTIALS
        versions = {"Status": "Enabled"}
        client.put_bucket_versioning(Bucket=network.BUCKET, VersioningConfiguration=versions)
        address = f"s3://{network.BUCKET}/dvc"
        _told_ok(world, "dvc", "remote", "add", "--default", "store", address)
        _told_ok(world, "dvc", "remote", "modify", "store", "endpointurl", endpoint)
        _told_ok(world, "dvc", "push", "--quiet")
        _told_ok(world, "git", "commit", "--quiet", "--all", "-m", "A remote")
        clone = _clone(world, "old-clone")
        _released(world)
        batch = _batch(world)
        _told_ok(world, "dvc", "remote", "modify", "--local", "store", "endpointurl", DEAD)
        code, text = world.give("erase", batch)
        held = code != 0 and "store" in text and "Traceback" not in text
        found.faults.append(Fault("bucket away", "erase", 0.0, _told(code, text)))
        if not held:
            found.broken.append("bucket away: the erasure did not say so")
        (world.folder / ".dvc/config.local").unlink()
        world.until_done("erase", batch)
        left = _in_bucket(world, client, network.BUCKET)
        found.faults.append(Fault("bucket with versions", "erase", 0.0, "went on"))
        if left:
            found.broken.append(f"bucket with versions: {left} versions hold erased records")
        _pushes_again(world, found, clone, batch, "old clone pushed to the bucket")
        if left := _in_bucket(world, client, network.BUCKET):
            found.broken.append(f"bucket after a comeback: {left} versions hold erased records")
        finish(world)


def clones_of_agents(world: World, found: Round, _database: Any) -> None:
    """A clone as an agent has it, with data and models, pushes old objects, branches and tags again
    after the erasure, several times."""
    remote = world.folder.parent / "remote"
    remote.mkdir()
    _told_ok(world, "dvc", "remote", "add", "--default", "store", str(remote))
    _told_ok(world, "dvc", "push", "--quiet")
    _told_ok(world, "git", "commit", "--quiet", "--all", "-m", "A remote")
    clone = _clone(world, "agent-clone")
    _released(world)
    batch = _batch(world)
    world.until_done("erase", batch)
    for number in range(1, 4):
        _pushes_again(world, found, clone, batch, f"agent's clone pushed again ({number})")
    shutil.copytree(clone / ".dvc/cache", world.folder / "artifacts/from-clone")
    _said(world, found, "agent's cache copied among artifacts", batch)
    _told_ok(world, "git", "-C", str(clone), "add", "--force", "data")
    _told_ok(world, "git", "-C", str(clone), *_SOMEBODY, "commit", "--quiet", "-m", "Data")
    _told_ok(world, "git", "-C", str(clone), "push", "--quiet", "origin", "HEAD:refs/heads/old")
    _, text = world.give("watch", "--json")
    said = "are there again" in text
    found.faults.append(
        Fault("agent's clone pushed data into git", "watch", 0.0, "said" if said else "NOT SAID")
    )
    if not said:
        found.broken.append("agent's clone pushed data into git: the watch did not say so")
    for command in (
        ("update-ref", "-d", "refs/heads/old"),
        ("reflog", "expire", "--expire=now", "--all"),
        ("gc", "--quiet", "--prune=now"),
    ):
        world.plain("git", *command)
    shutil.rmtree(clone)


SCENARIOS: dict[str, Callable[[World, Round, Any], None]] = {
    "hidden copies": hidden_copies,
    "copies in other forms": copies_in_other_forms,
    "copies that come back": copies_that_come_back,
    "hands in the register": hands_in_the_register,
    "random changes": random_changes,
    "register in PostgreSQL": in_postgres,
    "erasure beside an audit": erasure_beside_an_audit,
    "S3 remote": in_a_bucket,
    "agents' clones": clones_of_agents,
}
NEED_A_DATABASE = ("register in PostgreSQL",)


# -- copies ---------------------------------------------------------------------------------------


def _plant(world: World, picture: bytes) -> Iterator[Copy]:
    home = world.folder

    def own(kind: str, name: str, content: bytes, shown: str | None = None) -> Copy:
        path = home / "somewhere" / name
        files.write_bytes(path, content)
        return Copy(kind, shown or f"somewhere/{name}", path, lambda: path.unlink(missing_ok=True))

    yield own("copy among own files", "a.png", picture)
    yield own("copy in another format", "b.bmp", _as(picture, "BMP"))
    yield own("copy in a zip", "c.zip", _zipped(picture))
    yield own("copy in a gzip", "d.gz", gzip.compress(picture))
    yield own("copy in a tar of zips", "e.tgz", gzip.compress(_tarred(_zipped(picture))))
    yield own("archive that cannot be opened", "f.7z", b"7z\xbc\xaf\x27\x1c" + bytes(64))
    name = _person(world)
    yield own("file named after a person", f"x-{name}.dat", b"\0", "somewhere/…")
    yield own("copy with another ending", "g.txt", picture)
    yield own("copy without an ending", "copy", picture)
    yield own("copy as TIFF", "h.tiff", _as(picture, "TIFF"))
    yield own("copy as lossless WebP", "i.webp", _as(picture, "WEBP", lossless=True))
    yield own("copy in a bzip2", "j.bz2", bz2.compress(picture))
    yield own("copy in an xz", "k.xz", lzma.compress(picture))
    yield own("copy in a zip of zips of zips", "l.zip", _zipped(_zipped(_zipped(picture))))
    yield own("encrypted zip", "m.zip", _encrypted(_zipped(picture)))
    yield own("zip that is cut off", "n.zip", _zipped(picture)[:-30])
    yield own("tar with a name of a person", "o.tar", _tarred(b"x", f"{_person(world)}.txt"))
    yield own("list of people", "p.csv", f"id\n{_person(world)}\n".encode())
    yield own("list of hashed people", "q.csv", _hashed(_person(world)).encode())
    for number, folder in enumerate(
        (".hidden", "node_modules", ".venv/share", "__pycache__", ".prefect", ".register", "inbox")
    ):
        path = home / folder / f"corner-{number}.bin"
        files.write_bytes(path, picture)
        yield Copy(f"copy in {folder}", path.name, path, functools.partial(_unlink, path))
    for number, folder in enumerate((".git", ".dvc/tmp", ".dvc", ".batches")):
        path = home / folder / f"nook-{number}.png"
        files.write_bytes(path, picture)
        yield Copy(f"copy in {folder}", path.name, path, functools.partial(_unlink, path))
    yield _staged(world, picture)
    yield _in_a_dropped_stash(world, picture)
    yield _in_a_reference(world, picture, "refs/exps/ab/cdef/exp-1", "reference of dvc exp")
    yield _in_a_reference(world, picture, "refs/stash", "git stash")
    yield _in_a_reference(world, picture, "refs/notes/commits", "git notes")
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


def _plant_forms(world: World, picture: bytes) -> Iterator[Copy]:
    """Pictures and names of a person in other files, and places that nobody looks into."""
    from PIL import Image

    home, person = world.folder, _person(world)
    shades = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    arrays, compressed, frames = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(arrays, shades)
    np.savez_compressed(compressed, shades)
    blank = Image.fromarray(np.zeros_like(shades))
    blank.save(frames, "TIFF", save_all=True, append_images=[Image.fromarray(shades)])
    notebook = {"cells": [{"outputs": [{"data": {"image/png": _base64(picture)}}]}]}
    forms: dict[str, bytes] = {
        "copy in a tar.xz": lzma.compress(_tarred(picture, "one.png")),
        "copy in a stream of zlib": zlib.compress(picture),
        "copy in the older LZMA": lzma.compress(picture, format=lzma.FORMAT_ALONE),
        "copy behind a program": b"MZ" + bytes(500) + _zipped(picture),
        "copy behind another picture": _as(_blank(), "PNG") + picture,
        "copy in an ar archive": b"!<arch>\none.png/".ljust(68) + picture,
        "copy in a cell of SQLite": _in_sqlite(picture),
        "name in a cell of SQLite": _in_sqlite(f"by {person}"),
        "copy in a pickle": pickle.dumps({"picture": picture}),
        "name in a pickle": pickle.dumps({"who": person}),
        "array of pixels": arrays.getvalue(),
        "arrays compressed": compressed.getvalue(),
        "output of a notebook": json.dumps(notebook).encode(),
        "page with a picture": f'<img src="data:image/png;base64,{_base64(picture)}">'.encode(),
        "dump in hexadecimal digits": picture.hex().encode(),
        "second frame of a TIFF": frames.getvalue(),
        "copy in JPEG 2000": _as(picture, "JPEG2000", irreversible=False),
        "list in UTF-16": f"id\n{person}\n".encode("utf-16"),
        "list in capitals": f"id\n{person.upper()}\n".encode(),
        "name in a picture's comment": _as(_blank(), "PNG") + f"by {person}".encode(),
        "bundle of git": b"# v2 git bundle\n" + bytes(60),
        "file of columns": b"PAR1" + bytes(60),
    }
    for number, (kind, content) in enumerate(forms.items()):
        path = home / "somewhere" / f"form-{number:02d}.bin"
        files.write_bytes(path, content)
        yield Copy(kind, path.name, path, functools.partial(_unlink, path))
    yield _in_another_repository(world, picture, packed=False)
    yield _in_another_repository(world, picture, packed=True)
    yield _behind_a_link(world, picture)
    cache = home / ".dvc/cache/files"
    files.write_bytes(cache.parent / "left.png", picture)
    yield Copy("copy among the cache's files", None, cache.parent / "left.png", lambda: None)
    path = home / "artifacts/left.db"
    files.write_bytes(path, _in_sqlite(picture))
    yield Copy("database among artifacts", None, path, lambda: None)


def _in_another_repository(world: World, picture: bytes, packed: bool) -> Copy:
    """A repository in the workspace that has a picture in its history only."""
    inner = world.folder / "somewhere" / ("packed" if packed else "loose")
    files.write_bytes(inner / "one.png", picture)
    for command in (
        ("init", "--quiet"),
        ("add", "one.png"),
        (*_SOMEBODY, "commit", "--quiet", "-m", "one"),
        ("rm", "--quiet", "one.png"),
        *([("gc", "--quiet")] if packed else []),
    ):
        _told_ok(world, "git", "-C", str(inner), *command)
    kind = "packed history of another repository" if packed else "history of another repository"
    shown = f"somewhere/{inner.name}/.git/objects/"
    return Copy(kind, shown, inner / ".git", lambda: shutil.rmtree(inner))


def _behind_a_link(world: World, picture: bytes) -> Copy:
    """A link to a folder elsewhere, where a picture lies."""
    elsewhere, link = world.folder.parent / "elsewhere", world.folder / "somewhere" / "link"
    files.write_bytes(elsewhere / "one.png", picture)
    link.symlink_to(elsewhere, target_is_directory=True)

    def mend() -> None:
        link.unlink()
        shutil.rmtree(elsewhere)

    return Copy("link to a folder elsewhere", "somewhere/link", link, mend)


def _in_sqlite(cell: bytes | str) -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE kept (cell)")
        database.execute("INSERT INTO kept VALUES (?)", (cell,))
        database.commit()
        return database.serialize()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _blank() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(stream, "PNG")
    return stream.getvalue()


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


def _in_a_reference(world: World, picture: bytes, reference: str, kind: str) -> Copy:
    """A commit that only this reference leads to, with a picture of its own number of pixels, so
    that it is an object apart from others."""
    content = _as(picture, "PPM")
    name = f"{kind.replace(' ', '-')}.ppm"
    blob = world.feed(content + kind.encode(), "git", "hash-object", "-w", "--stdin")
    tree = world.feed(f"100644 blob {blob}\t{name}\n".encode(), "git", "mktree")
    commit = world.feed(b"", "git", "commit-tree", tree, "-m", "kept")
    _told_ok(world, "git", "update-ref", "--create-reflog", reference, commit)

    def mend() -> None:
        world.plain("git", "update-ref", "-d", reference)

    return Copy(kind, name, world.folder, mend)


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


def _clone(world: World, name: str) -> Path:
    """A clone with the data that the remote holds."""
    clone = world.folder.parent / name
    _told_ok(world, "git", "clone", "--quiet", str(world.folder), str(clone))
    _in_clone(world, clone, "pull", "--quiet", "--allow-missing")
    return clone


def _in_clone(world: World, clone: Path, *words: str) -> None:
    """A command of DVC in a clone, which has its databases of paths to itself, as on another
    machine."""
    here = world.environment
    world.environment = here | {"DVC_SITE_CACHE_DIR": str(clone / ".dvc/tmp/site")}
    try:
        _told_ok(world, "dvc", "--cd", str(clone), *words)
    finally:
        world.environment = here


def _pushes_again(world: World, found: Round, clone: Path, batch: str, kind: str) -> None:
    # else DVC takes from its own list that the remote has everything, and pushes nothing
    shutil.rmtree(clone / ".dvc/tmp/site", ignore_errors=True)
    _in_clone(world, clone, "push", "--quiet")
    _said(world, found, kind, batch)
    if batch and clone.exists() and kind.startswith("old clone"):
        shutil.rmtree(clone)


def _said(world: World, found: Round, kind: str, batch: str) -> None:
    """The next watch says that copies came back, and the erasure erases them again."""
    code, text = world.give("watch", "--json")
    said = "are there again" in text
    found.faults.append(Fault(kind, "watch", 0.0, "said" if said else f"NOT SAID, exit {code}"))
    if not said:
        found.broken.append(f"{kind}: the watch did not say so")
    world.until_done("erase", batch)


def _in_bucket(world: World, client: Any, bucket: str) -> int:
    """How many versions of objects in the bucket hold something of those who are erased."""
    needles = world.needles()
    pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket)
    found = 0
    for entry in (entry for page in pages for entry in page.get("Versions", [])):
        answer = client.get_object(Bucket=bucket, Key=entry["Key"], VersionId=entry["VersionId"])
        content = answer["Body"].read()
        found += any(needle in content for needle in needles)
    return found


# -- the register ---------------------------------------------------------------------------------


class SqliteHands:
    """Hands in the workspace's own database file."""

    where = ""
    trap = (
        "CREATE TRIGGER trap AFTER UPDATE ON requests BEGIN UPDATE requests SET due = "
        "'2099-01-01' WHERE request_id = new.request_id AND due <> '2099-01-01'; END",
    )

    def __init__(self, world: World) -> None:
        self._path = world.folder / REGISTER

    def keep(self) -> bytes:
        """A copy of the state now."""
        with contextlib.closing(sqlite3.connect(self._path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._path.read_bytes()

    def show(self, state: bytes) -> None:
        """Put a state back, without what SQLite keeps beside it."""
        for ending in ("-wal", "-shm"):
            self._path.with_name(f"{self._path.name}{ending}").unlink(missing_ok=True)
        self._path.write_bytes(state)

    def events(self) -> list[dict[str, Any]]:
        """All events in their order."""
        with contextlib.closing(sqlite3.connect(self._path)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM events ORDER BY seq")]

    def random_change(self, chance: random.Random) -> tuple[str, str]:
        """A kind of change, and its statement: a cell gets another value, or a row is gone."""
        table = chance.choice(("events", "requests", "identities"))
        with contextlib.closing(sqlite3.connect(self._path)) as database:
            cursor = database.execute(f"SELECT rowid AS place, * FROM {table}")  # noqa: S608
            names = [column[0] for column in cursor.description]
            row = dict(zip(names, chance.choice(cursor.fetchall()), strict=True))
        where = f"WHERE rowid = {row.pop('place')}"
        if chance.random() < 0.1:
            change = f"DELETE FROM {table} {where}"  # noqa: S608
            return f"row of {table} taken out at random", change
        column = chance.choice(sorted(row))
        before = row[column]
        if isinstance(before, int):
            after = str(before + 1000)
        elif before is None:
            after = "'x'"
        else:
            place = chance.randrange(len(before))
            other = "0" if before[place] != "0" else "1"
            after = "'" + (before[:place] + other + before[place + 1 :]).replace("'", "''") + "'"
        statement = f'UPDATE {table} SET "{column}" = {after} {where}'  # noqa: S608
        return f"cell of {table} changed at random", statement

    def change(self, statements: Iterable[str]) -> None:
        """Change it. Whoever owns the database can drop what keeps it from being changed."""
        with contextlib.closing(sqlite3.connect(self._path)) as database:
            query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for (name,) in database.execute(query).fetchall():
                database.execute(f'DROP TRIGGER "{name}"')
            for statement in statements:
                database.execute(statement)
            database.commit()


class PostgresHands:
    """Hands of the role that owns the register's database in PostgreSQL."""

    where = " (PostgreSQL)"
    trap = (
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.due := "
        "'2099-01-01'; RETURN NEW; END $$",
        "CREATE TRIGGER trap BEFORE UPDATE ON requests FOR EACH ROW EXECUTE FUNCTION trap()",
    )

    def __init__(self, world: World, server: Any) -> None:
        self._world, self._server = world, server

    def keep(self) -> str:
        """A copy of the state now; its address."""
        return str(self._server.copy_of(self._world.environment["ERASURE_AUDIT_DATABASE"]))

    def show(self, state: str) -> None:
        """Show a copy of a state in the register's place."""
        self._world.environment["ERASURE_AUDIT_DATABASE"] = self._server.copy_of(state)

    def events(self) -> list[dict[str, Any]]:
        """All events in their order."""
        import psycopg
        from psycopg.rows import dict_row

        address = self._world.environment["ERASURE_AUDIT_DATABASE"]
        with psycopg.connect(address, row_factory=dict_row) as connection:
            return connection.execute("SELECT * FROM events ORDER BY seq").fetchall()

    def change(self, statements: Iterable[str]) -> None:
        """Change it, with triggers off."""
        import psycopg

        address = self._world.environment["ERASURE_AUDIT_DATABASE"]
        with psycopg.connect(address) as connection:
            connection.execute("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement.encode())


def _tampering(world: World) -> Iterator[tuple[str, list[str]]]:
    """Kinds of changes, each with its statements."""
    first, second = sorted(world.asked)[:2]
    last = "(SELECT max(seq) FROM events)"
    one = f"WHERE request_id = '{first}'"
    yield (
        "identities swapped",
        [
            "UPDATE requests SET identities = (SELECT identities FROM requests "  # noqa: S608
            f"WHERE request_id = '{second}') {one}"
        ],
    )
    for column, value in (
        ("due", "'2099-01-01'"),
        ("state", "'closed'"),
        ("state", "'released'"),
        ("wishes", '\'{"languages": ["x"]}\''),
        ("wishes", '\'{"record_pseudonyms": ["x"]}\''),
        ("callbacks", "'[\"https://evil.example.org/\"]'"),
        ("batch", "'another'"),
        ("verdict", "'changed'"),
        ("held", "NOT held"),
        ("extended", "NOT extended"),
        ("submitted", "'2020-01-01T00:00:00Z'"),
        ("regulation", "'ccpa'"),
        ("duplicate_of", f"'{second}'"),
    ):
        change = f"UPDATE requests SET {column} = {value} {one}"  # noqa: S608
        named = "another request" if column == "duplicate_of" else value
        yield f"{column} set to {named}"[:40], [change]
    deletions = [f"DELETE FROM {table} {one}" for table in ("identities", "requests")]  # noqa: S608
    yield "request taken out", deletions
    yield "identity table emptied", ["DELETE FROM identities"]
    yield "identity table changed", ["UPDATE identities SET pseudonym = pseudonym || 'x'"]
    yield "actor of an event changed", ["UPDATE events SET actor = 'somebody' WHERE seq = 2"]
    yield "time of an event changed", ["UPDATE events SET at = '2020-01-01' WHERE seq = 2"]
    yield "details of an event changed", ["UPDATE events SET details = '{}' WHERE seq = 1"]
    without_mac = f"UPDATE events SET mac = NULL WHERE seq = {last}"  # noqa: S608
    yield "MAC of an event taken away", [without_mac]
    yield "all MACs taken away", ["UPDATE events SET mac = NULL, row_digest = NULL"]
    yield "event taken out", ["DELETE FROM callbacks", "DELETE FROM events WHERE seq = 2"]
    yield "first event taken out", ["DELETE FROM callbacks", "DELETE FROM events WHERE seq = 1"]
    yield (
        "tail cut",
        ["DELETE FROM callbacks", f"DELETE FROM events WHERE seq = {last}"],  # noqa: S608
    )
    yield (
        "long tail cut",
        ["DELETE FROM callbacks", f"DELETE FROM events WHERE seq > {last} / 2"],  # noqa: S608
    )
    tables = ("callbacks", "identities", "requests", "events")
    yield "register emptied", [f"DELETE FROM {table}" for table in tables]  # noqa: S608
    yield (
        "two events exchanged",
        [
            "UPDATE events SET seq = -2 WHERE seq = 2",
            "UPDATE events SET seq = 2 WHERE seq = 3",
            "UPDATE events SET seq = 3 WHERE seq = -2",
        ],
    )


def _agreeing(world: World) -> list[str]:
    """Another regulation in the row of a request and in all of its events."""
    one = f"WHERE request_id = '{sorted(world.asked)[0]}'"
    said = 'replace(details, \'"regulation":"gdpr"\', \'"regulation":"lgpd"\')'
    return [
        f"UPDATE requests SET regulation = 'lgpd' {one}",  # noqa: S608
        f"UPDATE events SET details = {said} {one}",  # noqa: S608
    ]


def _anew(hands: Any) -> list[str]:
    """All hashes made anew, as anybody can who knows the format; the key would be needed for the
    MACs."""
    from flows.register import chain

    previous, statements = chain.GENESIS, []
    for event in hands.events():
        event["previous"] = previous
        previous = chain.event_hash(event)
        changed = f"previous = '{event['previous']}', hash = '{previous}'"
        statements.append(f"UPDATE events SET {changed} WHERE seq = {event['seq']}")  # noqa: S608
    return statements


def _noticed(world: World, found: Round, kind: str) -> None:
    """`requests check` fails, and nothing is released or erased."""
    code, text = world.give("requests", "check")
    found.faults.append(Fault(kind, "requests check", 0.0, _told(code, text)))
    if code == 0:
        found.broken.append(f"{kind}: `requests check` found nothing")
    if "Traceback" in text:
        found.broken.append(f"{kind}: an exception reached the operator")


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


def _person(world: World) -> str:
    return next(iter(world.asked.values()))


def _hashed(subject: str) -> str:
    return f"id\n{hashlib.sha256(subject.encode()).hexdigest()}\n"


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        path.parent.rmdir()


def _as(picture: bytes, form: str, **options: Any) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").save(stream, form, **options)
    return stream.getvalue()


def _encrypted(archive: bytes) -> bytes:
    """A zip that says of its members that they are encrypted."""
    marked = bytearray(archive)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        marked[archive.index(signature) + offset] |= 1
    return bytes(marked)


def _zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.png", content)
    return stream.getvalue()


def _tarred(content: bytes, name: str = "inner.zip") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
