"""After an erasure nothing of the erased is left anywhere, everything of the others is, and
receipts say only that."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from flows.erasure import carry_out, derivations, git_history, matcher, receipts
from flows.erasure.carry_out import ErasureError
from flows.erasure.stores import dvc as dvc_store
from flows.erasure.stores.store import FoundCopy
from flows.pipeline import reproduce
from flows.register.register import SET_ASIDE, Intake, Register, RegisterError, State
from flows.workspace import layout, shell
from tasks.common import files, settings
from tasks.common.errors import ReproductionError
from tasks.data import records
from tasks.pooling import table as pool_table
from tasks.requests import pseudonyms

FORGOTTEN, UNSEEN, OTHER, PARTLY = "person-001", "person-005", "person-002", "person-003"
IDS = {
    FORGOTTEN: "11111111-aaaa-4aaa-8aaa-000000000001",
    UNSEEN: "22222222-bbbb-4bbb-8bbb-000000000002",
    PARTLY: "33333333-cccc-4ccc-8ccc-000000000003",
    "nobody": "44444444-dddd-4ddd-8ddd-000000000004",
}
BUCKET = "erasure"

STAGE = '''
import csv, hashlib, json, pathlib, sys, zipfile

name, batch = sys.argv[1], sys.argv[2]
manifest_path = pathlib.Path("data/manifest.csv")
rows = list(csv.DictReader(open(manifest_path))) if manifest_path.exists() else []
out = pathlib.Path("artifacts")

def write(path, content):
    path = out / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

def table(path):
    return list(csv.DictReader(open(out / path)))

def model(records, seed):
    """A model remembers a part of every image that it saw."""
    parts = [pathlib.Path("data", row["path"]).read_bytes()[8:40] for row in records]
    return bytes(8) + bytes([seed]) + b"".join(parts)

def trained():
    roles = {row["record_id"]: row["role"] for row in table("split.csv")}
    return [row for row in rows if roles[row["record_id"]] == "training"]

def left():
    gone = {row["record_id"] for row in table("resolve/forget.csv")}
    return [row for row in trained() if row["record_id"] not in gone]

if name == "pack":
    import numpy

    seen = [pathlib.Path("data", row["path"]).read_bytes()[8:40] for row in rows]
    pixels = numpy.array([[255 - one for one in part] for part in seen], numpy.uint8)
    flags = numpy.ones(len(rows), bool)
    (out / "pack").mkdir(parents=True, exist_ok=True)
    numpy.save(out / "pack/images.npy", pixels.reshape(-1, 1, 4, 8))
    thumbs = pixels.repeat(2, axis=1)
    manifest = numpy.array("0" * 64)
    numpy.savez(out / "pack/files.npz", manifest_sha256=manifest, thumbs=thumbs)
    sums = numpy.arange(len(rows), dtype=numpy.uint32)
    numpy.savez(out / "pack/rows.npz", manifest_sha256=manifest, sums=sums)
if name == "check":
    write("check/data.json", json.dumps({"records": len(rows)}))
    write("check/requests.json", "{}")
if name == "split":
    roles = ["control" if row["subject_id"] > "person-004" else "training" for row in rows]
    lines = [row["record_id"] + "," + role for row, role in zip(rows, roles)]
    write("split.csv", "\\n".join(["record_id,role", *lines]) + "\\n")
if name in ("train", "retrain"):
    records = trained() if name == "train" else left()
    for seed in (0, 1):
        write(f"{name}/0/seed-{seed}.safetensors", model(records, seed))
        write(f"{name}/0/seed-{seed}.json", json.dumps({"seconds": 1.0}))
if name == "unlearn":
    write("unlearn/unlearned.safetensors", model(left(), 9))
    write("unlearn/trace.csv", "step,forget_loss\\n1,0.5\\n")
if name == "score":
    with zipfile.ZipFile(out / "scores.tmp", "w") as target:
        target.writestr(zipfile.ZipInfo("phi.npy"), bytes(range(len(rows))))
    write("score/scores.npz", (out / "scores.tmp").read_bytes())
    (out / "scores.tmp").unlink()
    write("score/lineage.json", json.dumps({"models": 5}))
if name == "verify":
    write("verify/verdicts.json", json.dumps({"requests": {}}))
if name == "report":
    decided = json.load(open(f"ledger/decisions/{batch}.json"))
    folder = pathlib.Path("reports", batch, "11111111-aaaa-4aaa-8aaa-000000000001")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps({"copies": decided["erasure"]}))
'''

_TEMPLATE = """
stages:
  pack:
    cmd: python stage.py pack ${batch}
    deps: [data]
    outs: [artifacts/pack/images.npy, artifacts/pack/rows.npz, artifacts/pack/files.npz]
  check:
    cmd: python stage.py check ${batch}
    deps: [data, "requests/${batch}.json"]
    outs: [artifacts/check/data.json, artifacts/check/requests.json]
  split:
    cmd: python stage.py split ${batch}
    deps: [data/manifest.csv, artifacts/check/data.json]
    outs: [artifacts/split.csv]
  train:
    matrix: {block: [0]}
    cmd: python stage.py train ${batch} ${item.block}
    deps: [PACKED, artifacts/split.csv]
    outs: ["artifacts/train/${item.block}"]
  resolve:
    cmd: >-
      python -m tasks.resolve --data data --split artifacts/split.csv
      --requests requests/${batch}.json --checked artifacts/check/requests.json
      --out artifacts/resolve
    deps:
      - data/manifest.csv
      - artifacts/split.csv
      - requests/${batch}.json
      - artifacts/check/requests.json
    outs: [artifacts/resolve/forget.csv, artifacts/resolve/register.json]
  unlearn:
    cmd: python stage.py unlearn ${batch}
    deps: ["${original.checkpoint}", PACKED, artifacts/split.csv, artifacts/resolve/forget.csv]
    outs: [artifacts/unlearn/unlearned.safetensors, artifacts/unlearn/trace.csv]
  retrain:
    matrix: {block: [0]}
    cmd: python stage.py retrain ${batch} ${item.block}
    deps: [PACKED, artifacts/split.csv, artifacts/resolve/forget.csv]
    outs: ["artifacts/retrain/${item.block}"]
  score:
    cmd: python stage.py score ${batch}
    deps:
      - ${original.checkpoint}
      - ${references.with_from}
      - artifacts/unlearn/unlearned.safetensors
      - artifacts/retrain
      - LAST
      - artifacts/split.csv
      - artifacts/resolve/forget.csv
    outs: [artifacts/score/scores.npz, artifacts/score/lineage.json]
  verify:
    cmd: python stage.py verify ${batch}
    deps: [artifacts/score/scores.npz]
    outs: [artifacts/verify/verdicts.json]
  report:
    cmd: python stage.py report ${batch}
    deps:
      - artifacts/verify/verdicts.json
      - artifacts/score/lineage.json
      - artifacts/resolve/register.json
      - artifacts/check/data.json
      - artifacts/check/requests.json
      - artifacts/unlearn/trace.csv
      - ledger/batches/${batch}.json
      - ledger/decisions/${batch}.json
    outs:
      - reports/${batch}: {cache: false}
"""
PIPELINE = _TEMPLATE.replace(
    "PACKED", "data/manifest.csv, artifacts/pack/images.npy, artifacts/pack/rows.npz"
).replace("LAST", "artifacts/pack/images.npy")
BEFORE_PACKS = _TEMPLATE.replace("PACKED", "data").replace("LAST", "data")
"""The pipeline when every stage decoded the images itself, as older histories have it."""


# -- a world --------------------------------------------------------------------------------------


def picture(number: int, edition: int = 0) -> bytes:
    """An image as good as any: nothing decodes it."""
    return b"\x89PNG\0\0\0\0" + hashlib.sha256(f"picture {number}, {edition}".encode()).digest() * 3


def mail(person: str) -> str:
    """Another identity of a person."""
    return f"{person.replace('-', '.')}@example.org"


def fill(folder: Path, edition: int = 0) -> None:
    """Six people with four records each. One of the first person's images is one of the second's,
    byte by byte."""
    lines = ["record_id,subject_id,label,path,sha256"]
    for number in range(24):
        content = picture(4 if number == 3 else number, edition if number == 0 else 0)
        files.write_bytes(folder / "images" / f"r{number:05d}.png", content)
        name, person = f"r{number:05d}", f"person-{number // 4 + 1:03d}"
        lines.append(
            f"{name},{person},{number % 2},images/{name}.png,{hashlib.sha256(content).hexdigest()}"
        )
    files.write_text(folder / "manifest.csv", "\n".join(lines) + "\n")
    people = [f"email,{mail(f'person-{number:03d}')},person-{number:03d}" for number in range(1, 7)]
    files.write_text(
        folder / "identities.csv",
        "\n".join(["identity_type,identity_value,subject_id", *people]) + "\n",
    )


def ask(workspace: Path, batch: str) -> None:
    """The batch's requests as the nightly run writes them: pseudonyms only."""
    key = pseudonyms.make(workspace)
    entries = [
        {
            "regulation": "gdpr",
            "subject_request_id": request,
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-02T09:00:00Z",
            "subject_identities": [
                {
                    "identity_type": "email",
                    "identity_value": key.of("email", mail(who)),
                    "identity_format": "hmac-sha256",
                }
            ],
        }
        for who, request in IDS.items()
    ]
    wanted = [key.of(pseudonyms.RECORD, name) for name in ("r00008", "r00009")]
    entries[2]["extensions"] = {"erasure_audit": {"record_pseudonyms": wanted}}
    files.write_json(workspace / "requests" / f"{batch}.json", entries)


def needles() -> dict[str, bytes]:
    """Everything that must be gone: bytes, hashes, names of records and people."""
    found: dict[str, bytes] = {}
    gone = [0, 1, 2, 3, 8, 9, *range(16, 20)]
    for number in gone:
        found[f"record id {number}"] = f"r{number:05d}".encode()
        for edition in (0, 1) if number == 0 else (0,):
            content = picture(number, edition)
            if number != 3:  # its bytes are also a remaining record's
                found[f"bytes {number}.{edition}"] = content[8:40]
                found[f"pixels {number}.{edition}"] = pixels = bytes(
                    255 - one for one in content[8:40]
                )
                found[f"thumbnail {number}.{edition}"] = bytes(
                    one for one in pixels for _ in range(2)
                )
                found[f"md5 {number}.{edition}"] = hashlib.md5(content).hexdigest().encode()
                found[f"sha256 {number}.{edition}"] = hashlib.sha256(content).hexdigest().encode()
    for person in (FORGOTTEN, UNSEEN):
        for what in (person, mail(person)):
            found[f"name {person} {len(what)}"] = what.encode()
            found[f"hash of name {person} {len(what)}"] = (
                hashlib.sha256(what.encode()).hexdigest().encode()
            )
    return found


def contents(path: Path) -> Iterator[bytes]:
    """A file as it lies there, and what is packed in it."""
    content = path.read_bytes()
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from (packed.read(name) for name in packed.namelist())


def of_git(workspace: Path) -> Iterator[bytes]:
    """Every object of git, reachable or not."""
    listing = [
        "git",
        "cat-file",
        "--batch-all-objects",
        "--batch-check=%(objectname) %(objecttype)",
    ]
    for line in (
        subprocess.run(listing, cwd=workspace, capture_output=True, check=True)
        .stdout.decode()
        .splitlines()
    ):
        name, kind = line.split()
        yield subprocess.run(
            ["git", "cat-file", kind, name], cwd=workspace, capture_output=True, check=True
        ).stdout


class World:
    """A workspace with everything around it in one folder: remotes, DVC's databases, temporary
    files."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.remote = root, root / "home", root / "remote"

    def remains(self, bucket: Any = None) -> dict[str, set[str]]:
        """Where which of the needles is found; names of files count, too."""
        sought, found = needles(), dict[str, set[str]]()

        def look(name: str, content: bytes) -> None:
            hits = {name for name, needle in sought.items() if needle in content}
            if hits:
                found.setdefault(name, set()).update(hits)

        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            look(name, name.encode())
            look(name, name.replace("/", "").encode())  # DVC parts a hash after two digits
            if path.is_file():
                for content in contents(path):
                    look(name, content)
        for number, content in enumerate(of_git(self.home)):
            look(f"git object {number}", content)
        if bucket is not None:
            for version in bucket.object_versions.all():
                look(f"s3:{version.key}", version.key.replace("/", "").encode())
                if version.size is not None:
                    look(f"s3:{version.key}", version.get()["Body"].read())
        return found

    def erase(self, **options: Any) -> carry_out.Erased:
        """Erase the batch b."""
        return carry_out.erase(
            self.home, "b", "Ada Officer", temporary=[self.root / "tmp"], **options
        )


def build(root: Path, pipeline: str = PIPELINE) -> World:
    """A released batch: one person forgotten, one whom no model saw, two records of a third, and
    one unknown."""
    world = World(root)
    home = world.home
    home.mkdir(parents=True)
    (root / "tmp").mkdir()
    shell.git(home, "init", "--quiet")
    shell.git(home, "config", "user.email", "officer@example.org")
    shell.git(home, "config", "user.name", "Officer")
    shell.dvc(home, "init", "--quiet")
    files.write_text(home / ".dvc/config", layout.CONFIG)
    files.write_text(home / ".gitignore", "".join(f"{name}\n" for name in layout.IGNORED))
    files.write_text(home / "stage.py", STAGE)
    files.write_text(home / "dvc.yaml", pipeline)
    files.write_text(home / "params.yaml", settings.defaults_yaml())
    settings.assign(
        home / "params.yaml", ["batch=b", 'report.backups=[{"name": "tapes", "days": 30}]']
    )
    shell.dvc(home, "remote", "add", "-d", "folder", str(world.remote))
    fill(home / "data", edition=1)  # an earlier version of one image
    layout.track_data(home)
    shell.git(home, "add", ".")
    shell.dvc(home, "repro", "--quiet", "pack")  # a pack of the earlier version
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "first data")
    shell.dvc(home, "push", "--quiet")
    shutil.rmtree(home / "data")
    fill(home / "data")
    files.write_text(home / "data" / "note.txt", "never committed")
    layout.track_data(home)  # a version that git never hears of
    (home / "data" / "note.txt").unlink()
    layout.track_data(home)
    ask(home, "b")
    files.write_json(home / "ledger/batches/b.json", {"remotes": ["folder"]})
    files.write_json(
        home / "ledger/decisions/b.json",
        {"approvals": [], "erasure": [], "exceptions": [], "notices": []},
    )
    shell.dvc(home, "repro", "--quiet")
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "audit")
    shell.git(home, "tag", "-a", "-m", "audit", "audit/b")
    shell.dvc(home, "push", "--quiet", "--run-cache")
    release(home)
    return world


def release(home: Path) -> None:
    """What a release does: the models that go on, and the data without the forgotten."""
    for folder, source in (("releases", "unlearn/unlearned"), ("references", "retrain/0/seed-0")):
        target = home / folder / "b" / "model.safetensors"
        target.parent.mkdir(parents=True)
        shutil.copyfile(home / "artifacts" / f"{source}.safetensors", target)
        shell.dvc(home, "add", "--quiet", f"{folder}/b")
    forgotten = {
        line.partition(",")[0]
        for line in (home / "artifacts/resolve/forget.csv").read_text().splitlines()
    }
    lines = (home / "data/manifest.csv").read_text().splitlines()
    kept = [line for line in lines if line.partition(",")[0] not in forgotten - {"record_id"}]
    files.write_text(home / "data/manifest.csv", "\n".join(kept) + "\n")
    for name in forgotten - {"record_id"}:
        (home / "data/images" / f"{name}.png").unlink()
    people = (home / "data/identities.csv").read_text().splitlines()
    files.write_text(
        home / "data/identities.csv",
        "\n".join(row for row in people if FORGOTTEN not in row) + "\n",
    )
    layout.track_data(home)
    shell.dvc(home, "push", "--quiet")
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "release")
    shell.git(home, "tag", "-a", "-m", "release", "release/b")


def made(folder: Path, pipeline: str) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
        patch.setenv("TMPDIR", str(folder / "tmp"))
        return build(folder, pipeline)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("erasure") / "world", PIPELINE)


@pytest.fixture(scope="module")
def built_before_packs(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("before") / "world", BEFORE_PACKS)


def copied(built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder = tmp_path / "world"
    shutil.copytree(built.root, folder, symlinks=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    world = World(folder)
    shell.dvc(world.home, "remote", "modify", "folder", "url", str(world.remote))
    shell.git(world.home, "commit", "--quiet", "--all", "-m", "remote moved")
    return world


@pytest.fixture
def world(built: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return copied(built, tmp_path, monkeypatch)


@pytest.fixture
def world_before_packs(
    built_before_packs: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    return copied(built_before_packs, tmp_path, monkeypatch)


def states(world: World) -> dict[str, str]:
    """The state of each store, by its receipts."""
    return {one["store"]: one["state"] for one in receipts.read_all(world.home)[0]["stores"]}


def of_others(world: World) -> dict[str, bytes]:
    """The files of people who remain, as the data at hand have them."""
    gone = {f"r{number:05d}.png" for number in (0, 1, 2, 3, 8, 9, *range(16, 20))}
    return {
        path.name: path.read_bytes()
        for path in (world.home / "data/images").iterdir()
        if path.name not in gone
    }


# -- what is gone, and what is not ----------------------------------------------------------------


def pool_of(world: World) -> tuple[list[bytes], list[bytes]]:
    """Give the workspace a pool of everybody, committed and pushed; the rows that have to go, and
    those that stay."""
    fill(world.root / "everybody")
    manifest = records.read_manifest(world.root / "everybody")
    shutil.rmtree(world.root / "everybody")
    keys = pool_table.keys(manifest)
    shape = (2, len(keys))
    pool = pool_table.PoolTable(
        keys,
        np.ones(shape, np.float32),
        np.zeros(shape, np.int16),
        np.ones(shape, np.bool_),
        np.array([0, -1]),
    )
    lineage = {"recipe": {}, "seed": 0, "folds": 2, "models": [], "erased": []}
    pool_table.save(world.home / pool_table.FOLDER, pool, lineage)
    shell.dvc(world.home, "add", "--quiet", pool_table.FOLDER)
    shell.dvc(world.home, "push", "--quiet")
    shell.git(world.home, "add", ".")
    shell.git(world.home, "commit", "--quiet", "-m", "pool")
    gone = {0, 1, 2, 3, 8, 9, *range(16, 20)}
    rows = [key.tobytes() for key in keys]
    return [rows[n] for n in sorted(gone)], [rows[n] for n in range(24) if n not in gone]


def rows_anywhere(world: World) -> dict[str, bytes]:
    """What is packed in every table of a pool, by where it lies."""
    found = {}
    for path in world.root.rglob("*"):
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                if "keys.npy" in packed.namelist():
                    found[path.relative_to(world.root).as_posix()] = packed.read("keys.npy")
    return found


def test_rows_of_the_erased_leave_the_pool_in_every_store_and_the_pool_stays(world: World) -> None:
    gone, left = pool_of(world)
    before = rows_anywhere(world)
    for store in ("home/references/pool", "home/.dvc/cache", "remote"):
        assert any(name.startswith(store) for name in before), store
    world.erase()
    after = rows_anywhere(world)
    assert after
    assert not any(row in content for content in after.values() for row in gone)
    assert all(row in after["home/references/pool/scores.npz"] for row in left)
    assert shell.git(world.home, "status", "--porcelain", "--", "references") == ""
    pool, lineage = pool_table.load(world.home / pool_table.FOLDER)
    assert len(pool.keys) == len(left)
    assert [one["records"] for one in lineage["erased"]] == [len(gone)]


def test_a_pool_of_others_alone_is_left_as_it_is(world: World) -> None:
    pool_of(world)
    manifest = records.read_manifest(world.home / "data")
    unseen = manifest["subject_id"] == UNSEEN
    pool_table.keep_only(
        world.home / pool_table.FOLDER,
        manifest[~unseen & ~manifest["record_id"].isin(["r00008", "r00009"])],
        "2026-11-02T00:00:00Z",
    )
    kept = (world.home / pool_table.FOLDER / "scores.npz").read_bytes()
    shell.dvc(world.home, "add", "--quiet", pool_table.FOLDER)
    shell.git(world.home, "commit", "--quiet", "--all", "-m", "pool without them")
    world.erase()
    assert (world.home / pool_table.FOLDER / "scores.npz").read_bytes() == kept


def test_nothing_of_the_erased_is_left_in_any_store_and_everything_of_the_others_is(
    world: World,
) -> None:
    before = world.remains()
    everywhere = {name for hits in before.values() for name in hits}
    assert everywhere >= set(needles()) - {
        name for name in needles() if name.startswith("hash of name")
    }
    for store in ("home/.dvc/cache", "remote", "home/artifacts", "home/data", "site"):
        assert any(name.startswith(store) for name in before), store
    others = of_others(world)
    kept = [
        path
        for name in ("releases", "references")
        for path in (world.home / name).rglob("*.safetensors")
    ]
    assert len(kept) == 2

    done = world.erase()

    assert world.remains() == {}
    assert of_others(world) == others
    assert all(path.exists() for path in kept)
    assert done.new
    assert done.tag == "erased/b"
    assert shell.succeeds(world.home, "rev-parse", "--verify", "refs/tags/erased/b")
    assert not (world.home / ".erasure").exists()
    assert states(world) == {
        **dict.fromkeys(
            ("workspace", "temporary_files", "dvc_cache", "dvc_remote:folder", "dvc_databases"),
            "erased",
        ),
        **dict.fromkeys(
            ("prefect", "register", "inbox", "git", "original_model", "reference_models"), "erased"
        ),
        "backup:tapes": "expires",
    }
    assert shell.git(world.home, "status", "--porcelain") == ""
    decided = files.read_json(world.home / "ledger/decisions/b.json")["erasure"]
    assert {one["store"] for one in decided} >= {
        "workspace",
        "dvc_cache",
        "dvc_remote:folder",
        "original_model",
    }
    assert (
        files.read_json(next((world.home / "reports/b").glob("*/evidence.json")))["copies"]
        == decided
    )

    says_what_was_done_and_names_nobody(world)
    checks_again_what_can_be(world)
    does_nothing_the_second_time(world)
    leaves_the_others_a_workspace_that_works(world, others)


def test_a_history_from_before_the_packs_is_erased_as_well(world_before_packs: World) -> None:
    assert "pixels 0.0" in world_before_packs.remains()["home/artifacts/pack/images.npy"]
    world_before_packs.erase()
    assert world_before_packs.remains() == {}
    assert any(
        one.startswith("artifacts/train/0")
        for one in receipts.read_all(world_before_packs.home)[0]["not_kept"]["audit/b"]
    )
    assert reproduce.reproduce(world_before_packs.home, "b", "rederive")


def leave_packs_that_nobody_knows(world: World) -> list[Path]:
    """What killed processes leave: a draft of a stage, an object before `dvc.lock` has it, a part
    of a transfer."""
    import numpy

    pixels = numpy.frombuffer(bytes(255 - one for one in picture(0)[8:40]), numpy.uint8).reshape(
        1, 1, 4, 8
    )
    stream = io.BytesIO()
    numpy.save(stream, pixels)
    name = hashlib.md5(stream.getvalue()).hexdigest()
    cache = world.home / ".dvc/cache/files/md5" / name[:2]
    left = [
        world.home / "artifacts/pack/.images.npy-k1ll3d_x",
        cache / name[2:],
        cache / f".{name[2:]}.transfer",
        world.remote / "files/md5" / name[:2] / name[2:],
    ]
    for path in left:
        files.write_bytes(path, stream.getvalue() + b"cut off" * path.name.startswith("."))
    return left


def test_a_pack_that_no_lock_file_knows_goes_and_one_without_the_records_stays(
    world: World,
) -> None:
    left = leave_packs_that_nobody_knows(world)
    shell.dvc(
        world.home, "repro", "--quiet", "pack"
    )  # of the data after the release, which have the unseen people
    shell.git(world.home, "commit", "--quiet", "--all", "-m", "the next batch begins")
    for name in ("manifest.csv", "identities.csv"):
        lines = (world.home / "data" / name).read_text().splitlines()
        files.write_text(
            world.home / "data" / name, "\n".join(one for one in lines if UNSEEN not in one) + "\n"
        )
    for number in range(16, 20):
        (world.home / f"data/images/r{number:05d}.png").unlink()
    layout.track_data(world.home)
    shell.dvc(world.home, "repro", "--quiet", "pack")
    shell.git(world.home, "commit", "--quiet", "--all", "-m", "they left")
    kept = world.home / "artifacts/pack/images.npy"
    name = hashlib.md5(kept.read_bytes()).hexdigest()
    world.erase()
    assert not any(path.exists() for path in left)
    assert world.remains() == {}
    assert kept.exists()
    assert (world.home / ".dvc/cache/files/md5" / name[:2] / name[2:]).exists()


def test_a_pack_that_an_erasure_overlooks_is_found_by_the_search_of_these_tests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave_packs_that_nobody_knows(world)
    monkeypatch.setattr(matcher, "is_pack", lambda _: False)
    world.erase()
    remains = world.remains()
    assert all(path.exists() for path in left)
    assert all("pixels 0.0" in remains[path.relative_to(world.root).as_posix()] for path in left)


def says_what_was_done_and_names_nobody(world: World) -> None:
    """Numbers, times and names of stores; the report has an entry per store, and a hash that its
    receipt has, too."""
    [filed] = receipts.read_all(world.home)
    fates = filed["requests"]
    assert [fates[IDS[who]] for who in (FORGOTTEN, UNSEEN, PARTLY)] == ["erased"] * 3
    assert fates[IDS["nobody"]] == "set aside (unknown_subject)"
    by_store = {one["store"]: one for one in filed["stores"]}
    assert by_store["dvc_cache"]["found"].keys() >= {
        "records",
        "lists",
        "original",
        "references",
        "runs",
    }
    assert by_store["dvc_cache"]["looked_for"] == {
        "records": 10,
        "files": 10,
        "people": 2,
        "identities": 2,
        "models": by_store["dvc_cache"]["looked_for"]["models"],
    }  # one of the files is kept, one has an earlier version
    assert by_store["dvc_cache"]["shared_with_remaining_records"] == 1
    for one in filed["stores"]:
        text = json.dumps(
            {key: value for key, value in one.items() if key != "sha256"},
            sort_keys=True,
            indent=None,
        )
        assert (
            hashlib.sha256(
                json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()
            ).hexdigest()
            == (one["sha256"])
        )
    decided = files.read_json(world.home / "ledger/decisions/b.json")["erasure"]
    assert {one["store"] for one in decided} == {
        *(
            "workspace",
            "dvc_cache",
            "dvc_remote:folder",
            "original_model",
            "reference_models",
            "backup:tapes",
        )
    }
    assert all(
        one["receipt"].endswith(by_store[one["store"]]["sha256"])
        for one in decided
        if one["store"] != "workspace"
    )
    assert all(one["by"] == "Ada Officer" for one in decided)
    report = files.read_json(next((world.home / "reports/b").glob("*/evidence.json")))
    assert report["copies"] == decided


def checks_again_what_can_be(world: World) -> None:
    """Verdicts and reports can be derived again; executing again is refused with the reason; what
    is gone is told."""
    assert reproduce.reproduce(world.home, "b", "rederive")
    with pytest.raises(
        ReproductionError, match=r"records that it read were erased on .*ledger/erasures/b.json"
    ):
        reproduce.reproduce(world.home, "b", "reexecute")
    found = reproduce.reproduce(world.home, "b", "integrity")
    assert found
    assert found.missing == []
    assert any(one.startswith("artifacts/train/0 (on ") for one in found.erased)
    assert "artifacts/retrain/0" in found.identical


def does_nothing_the_second_time(world: World) -> None:
    """Erasing twice is harmless."""
    head = shell.git(world.home, "rev-parse", "HEAD")
    again = world.erase()
    assert not again.new
    assert shell.git(world.home, "rev-parse", "HEAD") == head


def leaves_the_others_a_workspace_that_works(world: World, others: dict[str, bytes]) -> None:
    """The people who remain can be fetched anew, and the next run has all that it needs."""
    shutil.rmtree(world.home / "data")
    shutil.rmtree(world.home / ".dvc/cache")
    shell.dvc(world.home, "pull", "--quiet", "data.dvc", "releases/b.dvc", "references/b.dvc")
    assert of_others(world) == others
    shell.dvc(world.home, "repro", "--quiet", "split", "train")
    assert len((world.home / "artifacts/split.csv").read_text().splitlines()) == 1 + len(others)


# -- remotes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def bucket_of(world: World, address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket that keeps versions, as a second remote with all that the cache has; one object was
    deleted there."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = boto3.resource("s3", endpoint_url=address).create_bucket(Bucket=BUCKET)
    bucket.Versioning().enable()
    shell.dvc(world.home, "remote", "add", "cloud", f"s3://{BUCKET}/store")
    shell.dvc(world.home, "remote", "modify", "cloud", "endpointurl", address)
    shell.git(world.home, "commit", "--quiet", "--all", "-m", "a second remote")
    bucket.put_object(Key="other/r00000.txt", Body=b"of another project")
    shell.dvc(world.home, "push", "--quiet", "--remote", "cloud", "--all-tags", "--run-cache")
    bucket.put_object(Key="store/handover/b/1/parcel.tar", Body=b"r00000")
    name = hashlib.md5(picture(1)).hexdigest()
    bucket.Object(f"store/files/md5/{name[:2]}/{name[2:]}").delete()
    return bucket


def test_versions_in_a_bucket_go_and_a_remote_that_is_away_is_not_called_erased(
    world: World, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = bucket_of(world, s3, monkeypatch)
    assert any(name.startswith("s3:store/files") for name in world.remains(bucket))
    away = world.root / "away"
    world.remote.rename(away)

    with pytest.raises(
        ErasureError, match=r"dvc_remote:folder .*Run `erasure-audit erase b` again"
    ):
        world.erase()

    found = states(world)
    assert found["dvc_cache"] == found["dvc_remote:cloud"] == "erased"
    assert "dvc_remote:folder" not in found
    assert (
        found["original_model"] == found["reference_models"] == "held"
    )  # they may lie in the remote
    assert not shell.succeeds(world.home, "rev-parse", "--verify", "refs/tags/erased/b")
    private = world.home / ".erasure/b.json"
    assert private.stat().st_mode & 0o777 == 0o600
    assert ".erasure" not in shell.git(world.home, "status", "--porcelain", "--untracked-files=all")

    shutil.rmtree(world.remote, ignore_errors=True)
    away.rename(world.remote)
    assert world.erase().tag == "erased/b"
    left = world.remains(bucket)
    assert left.pop("s3:other/r00000.txt")
    assert left == {}


# -- killed anywhere ------------------------------------------------------------------------------

KILLED_AT = (
    *(
        "plan",
        "data",
        "erase workspace",
        "half dvc_cache",
        "half dvc_remote:folder",
        "erase dvc_databases",
    ),
    *("report", "commit", "tag", "register", "forget the plan"),
)


def killed(world: World, at: str) -> None:
    """Erase in a process of its own that is killed before a step is taken, or in the middle of
    erasing a store."""
    child = os.fork()
    if child == 0:

        def step(told: str) -> None:
            if told == at:
                os.kill(os.getpid(), signal.SIGKILL)

        whole = dvc_store.DvcObjects.erase

        def half(store: dvc_store.DvcObjects, found: Iterable[FoundCopy]) -> None:
            going = list(found)
            if at == f"half {store.name}":
                whole(store, going[: len(going) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            whole(store, going)

        dvc_store.DvcObjects.erase = half  # type: ignore[method-assign]
        try:
            world.erase(listener=step)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"not killed at {at}"


def test_an_erasure_that_is_killed_at_any_step_is_continued(world: World) -> None:
    others = of_others(world)
    for at in KILLED_AT:
        killed(world, at)
        if (world.home / "ledger/erasures/b.json").exists():
            assert KILLED_AT.index(at) >= KILLED_AT.index("erase dvc_databases")
    assert world.erase().tag == "erased/b"
    assert world.remains() == {}
    assert of_others(world) == others
    assert shell.git(world.home, "status", "--porcelain") == ""
    counted = {
        one["store"]: one.get("erased") for one in receipts.read_all(world.home)[0]["stores"]
    }
    assert counted["dvc_cache"] > 20
    assert counted["dvc_remote:folder"] > 20


# -- whose data stay ------------------------------------------------------------------------------


def entry_of(home: Path, who: str) -> dict[str, Any]:
    """A request as the audited batch has it."""
    text = shell.git(home, "show", "audit/b:./requests/b.json")
    return next(one for one in json.loads(text) if one["subject_request_id"] == IDS[who])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE requests SET identities = '[]'",
        "UPDATE requests SET wishes = '{}'",
        "UPDATE identities SET pseudonym = 'x'",
    ],
)
def test_nothing_is_erased_by_a_register_that_somebody_changed(
    world: World, statement: str
) -> None:
    register = register_of(world)
    register.close()
    with sqlite3.connect(world.home / ".register/register.db") as connection:
        connection.execute(statement)
    register = Register(world.home)
    before = sorted(path for path in (world.home / ".dvc" / "cache").rglob("*"))
    with pytest.raises(RegisterError, match="not as its events say"):
        carry_out.erase(world.home, "b", "Ada", register)
    assert sorted(path for path in (world.home / ".dvc" / "cache").rglob("*")) == before
    register.close()


def register_of(world: World) -> Register:
    """The register with the batch as a release leaves it."""
    register = Register(world.home)
    key = pseudonyms.load_key(world.home)
    for who, request in IDS.items():
        known = {
            "identity_type": "email",
            "identity_value": key.of("email", mail(who)),
            "identity_format": "hmac-sha256",
        }
        wishes = {}
        if who == PARTLY:  # as `ask` has it
            wishes = entry_of(world.home, PARTLY)["extensions"]["erasure_audit"]
        intake = Intake(request, "gdpr", "2026-11-02T09:00:00Z", (known,), wishes)
        register.receive(intake, "intake", "api")
    ids = list(IDS.values())
    register.move(ids, State.IDENTITY_VERIFIED, "Ada")
    register.collect("b", "nightly")
    register.hold(IDS["nobody"], "nightly", "unknown_subject", SET_ASIDE)  # and keeps nobody else
    register.move([IDS["nobody"]], State.IDENTITY_VERIFIED, "nightly")
    for state in (State.AUDITED, State.AWAITING_SIGNOFF, State.RELEASED):
        register.move(ids[:3], state, "test")
    return register


def test_what_is_held_or_excepted_stays_and_what_the_tool_may_not_touch_is_said(
    world: World,
) -> None:
    register = register_of(world)
    register.hold(IDS[FORGOTTEN], "Ada", "a claim is pending")
    before = world.remains()
    with pytest.raises(ErasureError, match="legal hold"):
        world.erase(register=register)
    register.lift(IDS[FORGOTTEN], "Ada", "the claim was settled")
    with pytest.raises(ErasureError, match="no tag audit/c"):
        carry_out.erase(world.home, "c")
    assert world.remains().keys() >= before.keys()

    decided = world.home / "ledger/decisions/b.json"
    claim = {
        "at": "2026-11-20T09:00:00Z",
        "by": "Ada",
        "request": IDS[PARTLY],
        "ground": "Art. 17(3)",
        "reason": "tax",
    }
    files.write_json(decided, {**files.read_json(decided), "exceptions": [claim]})
    (world.home / "pictures").mkdir()
    (world.home / "pictures/first.png").write_bytes(picture(0))
    shutil.copyfile(world.home / "artifacts/pack/images.npy", world.home / "pictures/all.npy")
    shutil.copyfile(
        leave_packs_that_nobody_knows(world)[1], world.home / "mine.npy"
    )  # an array of somebody's own
    (world.home / "notes.txt").write_text(f"ask {mail(FORGOTTEN)} again")
    shell.git(world.home, "add", "notes.txt")
    shell.git(world.home, "commit", "--quiet", "-m", "notes")

    with pytest.raises(
        ErasureError,
        match=r"2 files that are not the tool's .*\(pictures/all.npy, pictures/first.png\)",
    ):
        world.erase(register=register)
    assert register.case(IDS[FORGOTTEN]).state is State.RELEASED
    shutil.rmtree(world.home / "pictures")

    done = world.erase(register=register)

    assert (world.home / "mine.npy").exists()
    kept = hashlib.md5(picture(8)).hexdigest()
    assert (world.home / ".dvc/cache/files/md5" / kept[:2] / kept[2:]).read_bytes() == picture(8)
    assert not (world.home / "data/images/r00016.png").exists()
    assert list(done.held) == ["git"]
    assert "1 files in git's history" in done.held["git"]
    assert [register.case(IDS[who]).state for who in (FORGOTTEN, UNSEEN)] == [State.ERASED] * 2
    assert register.case(IDS[PARTLY]).state is State.RELEASED
    entries = files.read_json(decided)["erasure"]
    assert {one["request"] for one in entries} == {IDS[FORGOTTEN], IDS[UNSEEN]}
    assert [one["state"] for one in entries if one["store"] == "git"] == ["held"] * 2
    register.close()


# -- what saw whom --------------------------------------------------------------------------------


def test_a_model_stays_only_if_it_is_released_or_is_known_not_to_have_seen_the_records() -> None:
    def stage(outs: dict[str, str], **deps: str) -> dict[str, Any]:
        paths = {
            "data": "data",
            "pack": "artifacts/pack/images.npy",
            "forget": "artifacts/resolve/forget.csv",
            "model": "models/own.safetensors",
        }
        return {
            "deps": [{"path": paths[name], "md5": oid} for name, oid in deps.items()],
            "outs": [{"path": path, "md5": oid} for path, oid in outs.items()],
        }

    verified = {"deps": [{"path": "artifacts/score/scores.npz", "md5": "scores"}], "outs": []}
    audited = git_history.WorkspaceState(
        ("audit/b",),
        {
            "train@0": stage({"artifacts/train/0/m.safetensors": "reference"}, data="old.dir"),
            "pack": stage(
                {"artifacts/pack/images.npy": "pack", "artifacts/pack/rows.npz": "rows"},
                data="old.dir",
            ),
            "train@1": stage({"artifacts/train/1/m.safetensors": "of the pack"}, pack="pack"),
            "features": stage({"artifacts/features.npy": "features"}, data="old.dir"),
            "unlearn": stage(
                {
                    "artifacts/unlearn/unlearned.safetensors": "unlearned",
                    "artifacts/unlearn/trace.csv": "trace",
                },
                data="old.dir",
                forget="all",
                model="own",
            ),
            "retrain@0": stage(
                {"artifacts/retrain/0/m.safetensors": "retrained"}, data="old.dir", forget="all"
            ),
            "score": stage({"artifacts/score/scores.npz": "scores"}, data="old.dir"),
            "verify": verified,
        },
        {"data": "old.dir", "releases/a": "earlier.dir"},
    )
    rejected = git_history.WorkspaceState(
        ("audit/a2",),
        {
            "retrain@0": stage(
                {"artifacts/retrain/0/m.safetensors": "without others"},
                data="old.dir",
                forget="others",
            )
        },
        {"data": "old.dir"},
    )
    vanished = git_history.WorkspaceState(
        (),
        {
            "retrain@0": stage(
                {"artifacts/m.safetensors": "of lost data"}, data="lost.dir", forget="lost"
            )
        },
        {},
    )
    left_over = (
        git_history.WorkspaceState(  # as `dvc.lock` keeps a stage that does not run any more
            (),
            {
                "pack": stage({"artifacts/pack/images.npy": "young pack"}, data="young.dir"),
                "train@0": stage({"artifacts/m.safetensors": "of the old pack"}, pack="pack"),
                "train@1": stage({"artifacts/m.safetensors": "of an unknown pack"}, pack="?"),
                "train@2": stage(
                    {"artifacts/m.safetensors": "of the young pack"}, pack="young pack"
                ),
            },
            {"data": "young.dir"},
        )
    )
    before = git_history.WorkspaceState(
        (),
        {"train@0": stage({"artifacts/m.safetensors": "before they came"}, data="young.dir")},
        {"data": "young.dir"},
    )
    released = git_history.WorkspaceState(
        ("release/b",), {}, {"data": "new.dir", "releases/b": "released.dir"}, after=True
    )
    later = git_history.WorkspaceState(
        ("audit/c",),
        {
            "pack": stage({"artifacts/pack/images.npy": "new pack"}, data="new.dir"),
            "retrain@0": stage({"artifacts/m.safetensors": "later"}, data="new.dir", forget="lost"),
        },
        {"data": "new.dir", "releases/b": "released.dir"},
        after=True,
    )
    folders = {"released.dir": "retrained", "earlier.dir": "released before"}

    class Knowledge:
        lists_trained = staticmethod(
            {"old.dir": True, "young.dir": False, "lost.dir": None, "new.dir": None}.__getitem__
        )
        lists_any = staticmethod(
            {"old.dir": True, "young.dir": False, "lost.dir": None, "new.dir": True}.__getitem__
        )
        forgets_all = staticmethod({"all": True, "others": False, "lost": None}.__getitem__)

        @staticmethod
        def read(oid: str) -> bytes | None:
            listed = folders.get(oid)
            entry = {"md5": listed, "relpath": "model.safetensors"}
            return json.dumps([entry]).encode() if listed else None

    found = derivations.trace(
        [audited, rejected, vanished, left_over, before, released, later], "b", Knowledge()
    )

    gone = {
        oid: kind for oid, kind in found.models.items() if oid not in found.keep | found.derivation
    }
    assert gone == {
        "reference": "references",
        "pack": "derived",
        "rows": "derived",
        "of the pack": "references",
        "of the old pack": "references",
        "of an unknown pack": "references",
        "features": "derived",
        "unlearned": "derived",
        "own": "original",
        "without others": "derived",
        "of lost data": "derived",
        "released before": "derived",
    }
    assert "retrained" in found.keep
    assert {"young pack", "of the young pack", "retrained"} <= found.other
    assert found.other.isdisjoint(
        {"pack", "new pack"}
    )  # the data after the release still list people of the batch


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("record_id,role\nr00017,training\n", True),
        ("record_id,role\nr00018,training\n", False),
        ('{"reason": "records r00017, r3 belong to another"}', True),
        ('"r00017.png"', True),
        ("ask kim.doe@example.org.", True),
        ('{"name": "J\\u00fcrgen Gro\\u00df"}', True),
        ("row,subject_id\n1,7\n", True),
        ("row,count\n1,7\n", False),
        ('{"7": 7, "text": "7 records"}', False),
        (hashlib.sha256(b"kim.doe@example.org").hexdigest(), True),
    ],
)
def test_names_are_found_in_text_and_short_ones_only_where_names_stand(
    text: str, found: bool
) -> None:
    names = matcher.NameMatcher(
        matcher.Sought(
            frozenset(),
            record_ids=frozenset({"r00017"}),
            subject_ids=frozenset({"7"}),
            identities=frozenset({"kim.doe@example.org", "Jürgen Groß"}),
        )
    )
    assert names.within(io.BytesIO(text.encode())) is found
