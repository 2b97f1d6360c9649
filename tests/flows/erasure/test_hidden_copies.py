"""Copies that hide are found wherever they lie, what cannot be judged is said, and what comes back
is found again."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.erasure import carry_out, comebacks, containers, hash_memory, matcher, receipts
from flows.erasure.carry_out import ErasureError
from flows.erasure.stores.trees import Tree
from flows.operations import monitoring
from flows.pipeline import close_batch
from flows.register.register import Register
from flows.workspace import checkouts, dvc_locks, layout, shell
from flows.workspace.dvc_locks import DataInUseError
from tasks.common import files, settings
from tasks.requests import pseudonyms

FORGOTTEN, OTHER = "person-001", "person-002"
REQUEST = "11111111-aaaa-4aaa-8aaa-000000000001"
STAGES = """
stages:
  split:
    cmd: python split.py
    deps: [data]
    outs: [artifacts/split.csv]
"""
SPLIT = """
import csv, pathlib
rows = list(csv.DictReader(open("data/manifest.csv")))
pathlib.Path("artifacts").mkdir(exist_ok=True)
lines = [f"{row['record_id']},control" for row in rows]
pathlib.Path("artifacts/split.csv").write_text("\\n".join(["record_id,role", *lines]) + "\\n")
"""


def picture(number: int, form: str = "PNG") -> bytes:
    """A real image, another for every number, in any lossless format."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def build(home: Path, remote: Path) -> None:
    """A released batch of one person whom no model saw: nothing is trained, so it is quick."""
    home.mkdir(parents=True)
    shell.git(home, "init", "--quiet")
    shell.git(home, "config", "user.email", "officer@example.org")
    shell.git(home, "config", "user.name", "Officer")
    shell.dvc(home, "init", "--quiet")
    files.write_text(home / ".dvc/config", layout.CONFIG)
    files.write_text(home / ".gitignore", "".join(f"{name}\n" for name in layout.IGNORED))
    files.write_text(home / "dvc.yaml", STAGES)
    files.write_text(home / "split.py", SPLIT)
    files.write_text(home / "params.yaml", settings.defaults_yaml())
    settings.assign(home / "params.yaml", ["batch=b"])
    shell.dvc(home, "remote", "add", "-d", "folder", str(remote))
    lines = ["record_id,subject_id,label,path,sha256"]
    for number in range(6):
        content = picture(number)
        files.write_bytes(home / "data/images" / f"r{number:05d}.png", content)
        who = FORGOTTEN if number < 2 else OTHER
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f"r{number:05d},{who},{number % 2},images/r{number:05d}.png,{digest}")
    files.write_text(home / "data/manifest.csv", "\n".join(lines) + "\n")
    layout.track_data(home)
    key = pseudonyms.make(home)
    identity = {
        "identity_type": "controller_customer_id",
        "identity_value": key.of("controller_customer_id", FORGOTTEN),
        "identity_format": "hmac-sha256",
    }
    request = {
        "regulation": "gdpr",
        "subject_request_id": REQUEST,
        "subject_request_type": "erasure",
        "submitted_time": "2026-11-02T09:00:00Z",
        "subject_identities": [identity],
    }
    files.write_json(home / "requests/b.json", [request])
    files.write_json(home / "ledger/batches/b.json", {"remotes": ["folder"]})
    shell.dvc(home, "repro", "--quiet")
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "audit")
    shell.git(home, "tag", "-a", "-m", "audit", "audit/b")
    shell.git(home, "tag", "-a", "-m", "release", "release/b")
    shell.dvc(home, "push", "--quiet")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hidden") / "world"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / "site"))
        build(root / "home", root / "remote")
    return root


@pytest.fixture
def home(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "world"
    shutil.copytree(built, root, symlinks=True)
    (root / "tmp").mkdir()
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(root / "site"))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    shell.dvc(root / "home", "remote", "modify", "folder", "url", str(root / "remote"))
    shell.git(root / "home", "commit", "--quiet", "--all", "-m", "remote moved")
    return root / "home"


def erase(home: Path) -> carry_out.Erased:
    return carry_out.erase(home, "b", "Ada Officer", temporary=[home.parent / "tmp"])


def held(done: carry_out.Erased) -> dict[str, str]:
    """Stores that are held, but for models: there were none."""
    return {name: why for name, why in done.held.items() if "model" not in name}


def commit(home: Path, path: str, content: bytes) -> None:
    files.write_bytes(home / path, content)
    shell.git(home, "add", "--force", path)
    shell.git(home, "commit", "--quiet", "-m", "a file of ours")


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


# -- a person's own files, which hold the receipt and are named -----------------------------------

FOREIGN = {
    "the same bytes": ("pictures/copy.png", picture(0)),
    "another format": ("pictures/copy.bmp", picture(0, "BMP")),
    "a zip": ("pictures/all.zip", zipped("a/one.png", picture(0))),
    "a gzip": ("pictures/one.gz", gzip.compress(picture(1))),
    "a bzip2": ("pictures/one.bz2", bz2.compress(picture(1))),
    "a tar": ("pictures/all.tar", tarred("one.png", picture(1))),
    "a zip in a tar.gz": (
        "pictures/all.tgz",
        gzip.compress(tarred("inner.zip", zipped("one.png", picture(0, "TIFF")))),
    ),
    "a name in an archive": ("pictures/names.zip", zipped(f"{FORGOTTEN}/note", b"\0nothing")),
    "a list in an archive": ("lists/old.zip", zipped("rows.csv", b"record_id\nr00001\n")),
}


@pytest.mark.parametrize("where", FOREIGN)
def test_a_copy_of_somebodys_own_holds_the_receipt_with_its_path(home: Path, where: str) -> None:
    path, content = FOREIGN[where]
    files.write_bytes(home / path, content)
    with pytest.raises(ErasureError, match=path):
        erase(home)
    assert (home / path).read_bytes() == content
    (home / path).unlink()
    assert erase(home).tag == "erased/b"


def test_the_picture_of_another_person_holds_nothing(home: Path) -> None:
    files.write_bytes(home / "pictures/other.bmp", picture(3, "BMP"))
    files.write_bytes(home / "pictures/other.zip", zipped("three.png", picture(3)))
    assert held(erase(home)) == {}


def test_a_name_made_of_a_subject_id_is_found_and_not_repeated(home: Path) -> None:
    files.write_bytes(home / f"pictures/scan-{FORGOTTEN}_left.dat", b"\0")
    with pytest.raises(ErasureError, match="pictures/…") as caught:
        erase(home)
    assert FORGOTTEN not in str(caught.value)
    filed = {one["store"]: one for one in receipts.read_all(home)[0]["stores"]}
    assert filed["workspace"]["state"] == "held"
    assert FORGOTTEN not in json.dumps(filed)


def test_what_cannot_be_judged_holds_the_receipt_with_its_path(home: Path) -> None:
    files.write_bytes(home / "stuff/closed.7z", b"7z\xbc\xaf\x27\x1c" + bytes(40))
    files.write_bytes(home / "stuff/damaged.zip", zipped("one.png", picture(0))[:60])
    deep = picture(0)
    for _ in range(containers.DEEPEST + 1):
        deep = gzip.compress(deep)
    files.write_bytes(home / "stuff/deep.gz", deep)
    with pytest.raises(
        ErasureError, match=r"3 files cannot be judged.*stuff/closed.7z, stuff/damaged.zip"
    ):
        erase(home)
    shutil.rmtree(home / "stuff")
    assert held(erase(home)) == {}


def test_a_tracked_file_and_its_uncommitted_change_are_found(home: Path) -> None:
    commit(home, "figures/example.png", picture(0))
    commit(home, "figures/changed.png", picture(7))
    files.write_bytes(home / "figures/changed.png", picture(1))
    with pytest.raises(ErasureError, match=r"2 files .*figures/changed.png, figures/example.png"):
        erase(home)
    shell.git(home, "checkout", "--quiet", "figures/changed.png")
    shell.git(home, "rm", "--quiet", "figures/example.png")
    shell.git(home, "commit", "--quiet", "-m", "away")
    done = erase(home)
    assert list(held(done)) == ["git"]  # its history still has the picture
    assert "example.png" in done.held["git"]


# -- what killed processes and experiments of DVC leave, which is the tool's to remove ------------


def left_in_batches(home: Path) -> Path:
    left = home / checkouts.FOLDER / ".removing-old-1234"
    files.write_bytes(left / "data/images/one.png", picture(0))
    return left


def left_without_git(home: Path) -> Path:
    left = home / checkouts.FOLDER / "2026-01"
    files.write_bytes(left / "data/images/one.png", picture(0))
    return left


def left_by_an_experiment(home: Path) -> Path:
    left = home / ".dvc/tmp/exps/standalone/tmpabc"
    files.write_bytes(left / "data/images/one.png", picture(1))
    return left


def left_in_the_temporary_folder(home: Path) -> Path:
    left = home.parent / "tmp" / "erasure-audit-abc"
    files.write_bytes(left / "some.zip", zipped("one.png", picture(1)))
    return left


@pytest.mark.parametrize(
    "leave",
    [left_in_batches, left_without_git, left_by_an_experiment, left_in_the_temporary_folder],
)
def test_a_copy_that_was_left_behind_is_removed(home: Path, leave) -> None:
    left = leave(home)
    assert held(erase(home)) == {}
    assert not left.exists()


def test_a_stash_that_was_dropped_and_an_experiments_reference_are_found(home: Path) -> None:
    files.write_bytes(home / "figures/example.png", picture(0))
    shell.git(home, "add", "figures/example.png")
    shell.git(home, "stash", "--quiet")
    shell.git(home, "stash", "drop", "--quiet")
    files.write_bytes(home / "figures/other.png", picture(1))
    shell.git(home, "add", "figures/other.png")
    tree = shell.git(home, "write-tree")
    lost = shell.git(home, "commit-tree", tree, "-p", "HEAD", "-m", "exp")
    shell.git(home, "update-ref", "refs/exps/aa/bb/exp-1", lost)
    shell.git(home, "reset", "--quiet", "--hard")
    assert "2 files in git's history" in erase(home).held["git"]


# -- links, and repositories in the repository -----------------------------------------------------


def moved_behind_a_link(folder: Path, elsewhere: Path) -> Path:
    """Put a folder on another disk, as people do whose disk is full; where it lies now."""
    shutil.move(folder, elsewhere)
    folder.symlink_to(elsewhere, target_is_directory=True)
    return elsewhere


def holds_the_person(folder: Path) -> bool:
    own = {picture(0), picture(1)}
    return any(path.read_bytes() in own for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", ["cache", "cache/files", "cache/files/md5"])
def test_a_cache_behind_a_link_is_erased_all_the_same(home: Path, part: str) -> None:
    elsewhere = moved_behind_a_link(home / ".dvc" / part, home.parent / "elsewhere")
    assert holds_the_person(elsewhere)
    assert held(erase(home)) == {}
    assert not holds_the_person(elsewhere)


def test_a_remote_behind_a_link_is_erased_all_the_same(home: Path) -> None:
    remote = home.parent / "remote"
    shutil.move(remote / "files", home.parent / "files-of-remote")
    (remote / "files").symlink_to("../files-of-remote", target_is_directory=True)
    assert held(erase(home)) == {}
    assert not holds_the_person(home.parent / "files-of-remote")


def test_every_remote_is_erased_and_not_only_the_default(home: Path) -> None:
    shell.dvc(home, "remote", "add", "second", str(home.parent / "second"))
    shell.dvc(home, "push", "--remote", "second")
    shell.git(home, "commit", "--quiet", "--all", "-m", "a second remote")
    assert holds_the_person(home.parent / "second")
    assert held(erase(home)) == {}
    assert not holds_the_person(home.parent / "second")


def test_one_of_the_tools_own_folders_behind_a_link_is_looked_into(home: Path) -> None:
    elsewhere = home.parent / "artifacts-elsewhere"
    files.write_bytes(elsewhere / "left/copy.png", picture(0))
    shutil.rmtree(home / "artifacts", ignore_errors=True)
    (home / "artifacts").symlink_to(elsewhere, target_is_directory=True)
    assert held(erase(home)) == {}
    assert not holds_the_person(elsewhere)


def test_a_link_to_a_folder_elsewhere_is_named_for_nobody_looks_there(home: Path) -> None:
    (home.parent / "elsewhere").mkdir()
    (home / "pictures").symlink_to(home.parent / "elsewhere", target_is_directory=True)
    (home / "inside").symlink_to(home / "data", target_is_directory=True)
    with pytest.raises(ErasureError, match=r"1 files cannot be judged.*\(pictures\)"):
        erase(home)
    (home / "pictures").unlink()
    assert held(erase(home)) == {}


def another_repository(home: Path) -> Path:
    """A repository in the workspace that has the person's picture in its history only."""
    inner = home / "inner"
    inner.mkdir()
    shell.git(inner, "init", "--quiet")
    shell.git(inner, "config", "user.email", "officer@example.org")
    shell.git(inner, "config", "user.name", "Officer")
    commit(inner, "one.png", picture(0))
    shell.git(inner, "rm", "--quiet", "one.png")
    shell.git(inner, "commit", "--quiet", "-m", "away")
    return inner


@pytest.mark.parametrize("packed", [False, True])
def test_the_history_of_a_repository_in_the_workspace_holds_the_receipt(
    home: Path, packed: bool
) -> None:
    inner = another_repository(home)
    if packed:
        shell.git(inner, "gc", "--quiet")
    with pytest.raises(ErasureError, match=r"inner/\.git/objects/"):
        erase(home)
    shutil.rmtree(inner)
    assert held(erase(home)) == {}


@pytest.mark.parametrize("packed", [False, True])
def test_the_history_of_a_submodule_holds_the_receipt(home: Path, packed: bool) -> None:
    inner = another_repository(home)
    if packed:
        shell.git(inner, "gc", "--quiet")
    modules = home / ".git" / "modules"
    modules.mkdir()
    shutil.move(inner / ".git", modules / "inner")
    shutil.rmtree(inner)
    with pytest.raises(ErasureError, match=r"\.git/modules/inner/objects/"):
        erase(home)


def test_a_pipe_in_the_workspace_does_not_stop_the_look(home: Path) -> None:
    import os

    os.mkfifo(home / "pipe")
    assert held(erase(home)) == {}


# -- what comes back ------------------------------------------------------------------------------


def came_back(home: Path) -> dict[str, dict[str, int]]:
    return comebacks.look(home, [home.parent / "tmp"]).counts


def test_nothing_is_said_to_come_back_where_nothing_did(home: Path) -> None:
    erase(home)
    assert came_back(home) == {}
    assert not erase(home).new


def test_an_old_clone_that_is_pushed_again_is_found_and_erased_again(home: Path) -> None:
    before = home.parent / "remote-before"
    shutil.copytree(home.parent / "remote", before)
    erase(home)
    shutil.copytree(before, home.parent / "remote", dirs_exist_ok=True)
    shutil.rmtree(before)
    files.write_bytes(home / "artifacts/again.png", picture(0))

    assert came_back(home)["b"].keys() == {"dvc_remote:folder", "workspace"}
    again = erase(home)

    assert again.new
    assert again.came_back["workspace"] == 1
    assert came_back(home) == {}
    assert not (home / "artifacts/again.png").exists()
    [filed] = receipts.read_all(home)
    assert filed["came_back"][0]["erased"] == again.came_back
    assert shell.git(home, "status", "--porcelain") == ""
    shell.dvc(home, "pull", "--quiet", "data.dvc")  # what remains was not touched


def test_what_was_looked_at_before_is_found_when_it_changes_under_its_old_size_and_time(
    home: Path,
) -> None:
    erase(home)
    path = home / "artifacts/innocent.png"
    files.write_bytes(path, bytes(len(picture(0))))
    os.utime(path, (1_000_000, 1_000_000))
    assert came_back(home) == {}
    assert came_back(home) == {}
    seen = (home / hash_memory.FILE).read_text()
    for number in (0, 1):
        assert hashlib.md5(picture(number)).hexdigest() not in seen
    path.write_bytes(picture(0))
    os.utime(path, (1_000_000, 1_000_000))
    assert came_back(home) == {"b": {"workspace": 1}}


def test_the_watch_tells_of_what_comes_back_as_often_as_it_was_erased_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(home.parent / "tmp"))
    (home.parent / "tmp").mkdir(exist_ok=True)
    now = datetime(2026, 12, 1, 12, tzinfo=UTC)
    erase(home)
    with contextlib.closing(Register(home)) as register:

        def told() -> int:
            stuck = monitoring.run(home, register, now=now).stuck
            return sum("are there again" in line for line in stuck)

        assert told() == 0
        for _ in range(2):  # an old clone is pushed, and on the same day once more
            files.write_bytes(home / "artifacts/again.png", picture(0))
            assert [told(), told()] == [1, 0]
            erase(home)
        assert told() == 0


def test_a_list_of_hashes_from_an_old_cache_is_found_among_other_files(home: Path) -> None:
    [listing] = (home / ".dvc/cache/files/md5").rglob("*.dir")
    content = listing.read_bytes()
    erase(home)
    files.write_bytes(home / "artifacts/copy/old.dir", content)
    assert came_back(home) == {"b": {"workspace": 1}}
    erase(home)
    assert not (home / "artifacts/copy/old.dir").exists()


@pytest.mark.parametrize("content", [b"", b"no memory", b"\xff\xfe", b"a b c\n", b"a b\n"])
def test_a_damaged_memory_of_earlier_looks_hides_nothing(home: Path, content: bytes) -> None:
    erase(home)
    files.write_bytes(home / "artifacts/again.png", picture(0))
    files.write_bytes(home / hash_memory.FILE, content)
    assert came_back(home) == {"b": {"workspace": 1}}
    assert shell.git(home, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "corner",
    [
        ".git/stray.png",
        ".git/objects/pack/stray.png",
        ".venv/lib/a.so",
        "node_modules/x/logo.png",
        "__pycache__/a.pyc",
        ".prefect/storage/b",
        ".register/copy.db",
        ".dvc/tmp/left",
        ".batches/left.png",
    ],
)
def test_a_copy_among_programs_and_databases_holds_the_receipt_with_its_path(
    home: Path, corner: str
) -> None:
    files.write_bytes(home / corner, picture(0))
    files.write_bytes(home / Path(corner).with_name("unreadable.7z"), b"7z\xbc\xaf\x27\x1c" * 9)
    with pytest.raises(ErasureError, match=re.escape(corner)) as caught:
        erase(home)
    assert "unreadable" not in str(caught.value)  # programs are full of such


def test_a_copy_of_somebodys_own_that_comes_back_is_an_error_and_not_touched(home: Path) -> None:
    erase(home)
    files.write_bytes(home / "pictures/again.png", picture(0))
    with pytest.raises(ErasureError, match="workspace: 1 files that are not the tool's"):
        erase(home)
    assert (home / "pictures/again.png").exists()


@pytest.mark.parametrize("loss", ["gone", "empty", "cut"])
def test_where_the_list_of_what_was_erased_is_lost_it_is_said_and_how_to_bring_it_back(
    home: Path, loss: str
) -> None:
    erase(home)
    path = home / receipts.FOLDER / f"b{comebacks.ENDING}"
    lines = path.read_text().splitlines(keepends=True)
    if loss == "gone":
        path.unlink()
    else:
        path.write_text("".join(lines[:-1] if loss == "cut" else []))
    (line,) = (each for each in comebacks.look(home, []).lines if "restore it" in each)
    assert "cannot be looked for again" in line
    shell.git(home, *line.partition("restore it: git ")[2].split())
    assert comebacks.look(home, []).lines == []


def test_the_list_names_nothing_to_those_without_the_key_and_is_of_no_use_with_another(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase(home)
    text = (home / receipts.FOLDER / f"b{comebacks.ENDING}").read_text()
    for number in (0, 1):
        assert hashlib.md5(picture(number)).hexdigest() not in text
    assert hashlib.md5(picture(0)).hexdigest() not in shell.git(home, "log", "-p", "--all")
    monkeypatch.setenv(pseudonyms.KEY, "another key " * 4)
    look = comebacks.look(home, [])
    assert not look
    assert "another key of pseudonyms" in look.lines[0]


def test_copies_fetched_while_the_erasure_is_under_way_are_erased_before_it_is_tagged(
    home: Path,
) -> None:
    old = home / ".dvc/cache/files/md5"
    digest = hashlib.md5(picture(0)).hexdigest()
    fetched = old / digest[:2] / digest[2:]

    def fetch(step: str) -> None:
        if step == "look at dvc_databases":  # the cache and the remote are erased by then
            files.write_bytes(fetched, picture(0))

    carry_out.erase(home, "b", "Ada", listener=fetch, temporary=[home.parent / "tmp"])
    assert not fetched.exists()
    assert came_back(home) == {}


# -- one at a time --------------------------------------------------------------------------------


@pytest.fixture
def reader(home: Path) -> Iterator[None]:
    """Another process that uses the data of the workspace."""
    script = (
        "import sys; from pathlib import Path; from flows.workspace import dvc_locks\n"
        "with dvc_locks.using(Path(sys.argv[1])):\n"
        "    print('at work', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    yield
    process.communicate("")


def test_nothing_is_erased_while_another_process_uses_the_data(home: Path, reader: None) -> None:
    with (
        pytest.raises(DataInUseError, match="in use"),
        dvc_locks.erasing(home, patience=0),
    ):
        pass
    with dvc_locks.using(home, patience=0):  # others may use them, too
        pass


def test_while_an_erasure_is_under_way_nobody_else_fetches_and_it_does_itself(home: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from flows.workspace import dvc_locks\n"
        "with dvc_locks.using(Path(sys.argv[1]), patience=0): pass\n"
    )
    with dvc_locks.erasing(home):
        other = subprocess.run(
            [sys.executable, "-c", script, str(home)], capture_output=True, text=True
        )
        assert "an erasure is under way" in other.stderr
        with close_batch.checkout(home, "audit/b") as copy:
            assert (copy / "dvc.yaml").exists()
    assert subprocess.run([sys.executable, "-c", script, str(home)]).returncode == 0


def test_a_lock_that_git_left_behind_does_not_keep_the_erasure_from_ending(home: Path) -> None:
    def kill_git(step: str) -> None:
        if step == "commit":
            (home / ".git/index.lock").touch()

    done = carry_out.erase(home, "b", "Ada", listener=kill_git, temporary=[home.parent / "tmp"])
    assert done.tag == "erased/b"


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("pictures/kim-017.png", True),
        ("scan_kim-017_left.png", True),
        ("kim-0171.png", False),
        ("r00017/file", True),
        ("artifacts/train/0/seed-1.json", False),
    ],
)
def test_names_of_files_are_judged_by_their_parts(path: str, named: bool) -> None:
    names = matcher.NameMatcher(
        matcher.Sought(
            frozenset(),
            record_ids=frozenset({"r00017"}),
            subject_ids=frozenset({"kim-017", "7"}),
        )
    )
    assert names.in_path(path) is named


def test_a_store_of_another_workspace_within_is_looked_into(home: Path) -> None:
    clone = home / "clone/.dvc/cache/files/md5/ab"
    files.write_bytes(clone / "cdef", picture(0))
    judge = matcher.Judge(matcher.Sought(frozenset({hashlib.md5(picture(0)).hexdigest()})))
    assert Tree("workspace", home).look(judge).foreign == 1
