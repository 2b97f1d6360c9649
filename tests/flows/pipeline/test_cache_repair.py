"""Bytes that rot are found by hashing them again, and what was made of them is made anew."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flows.pipeline import cache_repair
from flows.workspace import checkouts, dvc_graph, layout, shell
from tasks.common import files, settings
from tasks.data import image_pack
from tasks.data.importers import digits


def test_a_pack_of_files_that_had_rotted_is_made_again_when_they_are_sound(tmp_path: Path) -> None:
    home = tmp_path / "home"
    layout.init(home)
    shell.git(home, "config", "user.email", "auditor@example.org")
    shell.git(home, "config", "user.name", "Auditor")
    digits.import_data(home / "data", writers=3)
    layout.track_data(home)
    shell.git(home, "add", ".")
    shell.git(home, "commit", "--quiet", "-m", "data")
    sound = next((home / "data/images").iterdir())
    oid = hashlib.md5(sound.read_bytes()).hexdigest()
    with dvc_graph.open_repo(home) as repo:
        rotten = Path(repo.cache.local.path) / oid[:2] / oid[2:]
    rotten.unlink()  # a link would be the file itself
    files.write_bytes(rotten, b"x" + sound.read_bytes()[1:])
    rotten.chmod(0o444)  # as DVC keeps it, so that it does not look
    workspace = checkouts.open(home, "b")
    shell.dvc(workspace, "repro", "--quiet", "pack")
    assert image_pack.notes_faults(workspace / "artifacts/pack")

    found = cache_repair.take_out(home, workspace)

    assert (found.objects, found.files) == (4, 4)  # the image, and the three files of the pack
    shell.dvc(checkouts.open(home, "b"), "repro", "--quiet", "pack")
    wish = settings.load(home / "params.yaml").data
    known = image_pack.read(workspace / "artifacts/pack", workspace / "data", wish)
    assert known.sound.all()
    assert known.images(slice(None)).shape == known.pixels.shape
