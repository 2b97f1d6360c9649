"""The pack: every image decoded once, in the manifest's order; what is wrong with a file is noted
and refused later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from tasks import pack
from tasks.common import files
from tasks.common.errors import DataError
from tasks.data import image_pack, images
from tests.tasks.data.test_records import COLOUR, GREY, make, png

COUNT = 23


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    pictures = {
        f"r{number:02d}": png(random.integers(0, 256, (8, 8), np.uint8)) for number in range(COUNT)
    }
    make(tmp_path / "data", pictures)
    return tmp_path / "data"


def put(data: Path, row: int, column: str, value: str) -> None:
    table = pd.read_csv(data / "manifest.csv", dtype=str)
    table.loc[row, column] = value
    table.to_csv(data / "manifest.csv", index=False)


def test_every_image_stands_in_the_row_of_its_record(data: Path, tmp_path: Path) -> None:
    pack.make(data, COLOUR, tmp_path / "pack")
    packed = image_pack.read(tmp_path / "pack", data, COLOUR)
    for row, path in enumerate(packed.manifest["path"]):
        shown = images.pixels(images.decode((data / path).read_bytes(), "", COLOUR), COLOUR)
        assert (packed.pixels[row] == shown).all()
    some = np.arange(COUNT) % 3 == 0
    assert (packed.images(some) == packed.pixels[some]).all()
    assert (packed.images(slice(5, 9)) == packed.pixels[5:9]).all()


def test_several_processes_make_the_same_bytes_as_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/r07.png").write_bytes(b"damaged")
    pack.make(data, GREY, tmp_path / "whole")
    pack.make(data, GREY, tmp_path / "parts", jobs=3, most_files=4, say_every=10)
    for name in (image_pack.IMAGES, image_pack.FILES, image_pack.ROWS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert capsys.readouterr().out.splitlines() == [
        f"decoded 12 of {COUNT} images",
        f"decoded 20 of {COUNT} images",
    ]


def test_a_faulty_file_is_noted_and_the_others_are_packed(data: Path, tmp_path: Path) -> None:
    (data / "images/r01.png").unlink()
    whole = (data / "images/r02.png").read_bytes()
    (data / "images/r02.png").write_bytes(whole[:60])
    (data / "images/r03.png").write_bytes((data / "images/r04.png").read_bytes())
    (tmp_path / "secret.png").write_bytes(whole)
    put(data, 5, "path", "../secret.png")
    pack.make(data, GREY, tmp_path / "pack")
    packed = image_pack.read_files(tmp_path / "pack", data, COUNT)
    assert np.flatnonzero(~packed.readable).tolist() == [1, 5]
    assert np.flatnonzero(~packed.same).tolist() == [1, 2, 3, 5]
    assert np.flatnonzero(~packed.decodes).tolist() == [1, 2, 5]
    images = np.load(tmp_path / "pack" / image_pack.IMAGES)
    assert (images[[1, 2, 5]] == 0).all()
    assert (packed.thumbs[[1, 2, 5]] == 0).all()
    assert (images[[0, 4, *range(6, COUNT)]] != 0).any(axis=(1, 2, 3)).all()


def test_a_record_whose_file_is_faulty_is_shown_to_no_model(data: Path, tmp_path: Path) -> None:
    (data / "images/r03.png").write_bytes((data / "images/r04.png").read_bytes())
    pack.make(data, GREY, tmp_path / "pack")
    packed = image_pack.read(tmp_path / "pack", data, GREY)
    assert len(packed.images(np.arange(COUNT) != 3)) == COUNT - 1
    with pytest.raises(
        DataError, match="record r03: expected a sound image file; run the stage check"
    ):
        packed.images(np.arange(COUNT) == 3)


def test_a_pack_of_other_records_or_settings_is_refused(data: Path, tmp_path: Path) -> None:
    pack.make(data, GREY, tmp_path / "pack")
    with pytest.raises(DataError, match="run the stage pack"):
        image_pack.read(tmp_path / "pack", data, COLOUR)
    put(data, 0, "subject_id", "another")
    for read in (
        lambda: image_pack.read(tmp_path / "pack", data, GREY),
        lambda: image_pack.read_files(tmp_path / "pack", data, COUNT),
    ):
        with pytest.raises(DataError, match=r"another manifest.csv .*run the stage pack"):
            read()


@pytest.mark.parametrize("name", [image_pack.IMAGES, image_pack.FILES, image_pack.ROWS])
def test_a_pack_that_is_torn_or_not_whole_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    pack.make(data, GREY, tmp_path / "pack")
    path = tmp_path / "pack" / name
    content = path.read_bytes()

    def refused() -> None:
        with pytest.raises(DataError, match="run the stage pack"):
            image_pack.read(tmp_path / "pack", data, GREY)
            image_pack.read_files(tmp_path / "pack", data, COUNT)

    path.unlink()
    refused()
    path.write_bytes(content[: len(content) // 2])
    refused()


def test_nothing_is_unpickled(data: Path, tmp_path: Path) -> None:
    pack.make(data, GREY, tmp_path / "pack")
    np.save(tmp_path / "pack" / image_pack.IMAGES, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match="run the stage pack"):
        image_pack.read(tmp_path / "pack", data, GREY)


def test_the_pixels_stay_in_their_file_until_they_are_asked_for(data: Path, tmp_path: Path) -> None:
    pack.make(data, GREY, tmp_path / "pack")
    packed = image_pack.read(tmp_path / "pack", data, GREY)
    assert isinstance(packed.pixels, np.memmap)
    assert not packed.pixels.flags.writeable


def test_the_draft_of_a_killed_process_goes(data: Path, tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "pack/.images.npy-k1lled_x", b"pixels")
    pack.make(data, GREY, tmp_path / "pack")
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {
        image_pack.IMAGES,
        image_pack.FILES,
        image_pack.ROWS,
    }


def test_pixels_that_rotted_are_found_where_they_are_read(data: Path, tmp_path: Path) -> None:
    pack.make(data, GREY, tmp_path / "pack")
    images = np.load(tmp_path / "pack" / image_pack.IMAGES, mmap_mode="r+")
    images[4, 0, 3, 3] ^= 1
    images.flush()
    packed = image_pack.read(tmp_path / "pack", data, GREY)
    assert len(packed.images(slice(4))) == 4
    with pytest.raises(
        DataError, match=r"record r04: expected images.npy as it was written; run the stage pack"
    ):
        packed.images(np.arange(COUNT) > 1)


def test_no_stage_after_the_check_is_given_the_image_files() -> None:
    pipeline = YAML(typ="safe").load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    pipeline = {name: one.get("do", one) for name, one in pipeline.items()}
    assert {name for name, one in pipeline.items() if "data" in one["deps"]} == {"pack", "check"}
    readers = {
        name
        for name, one in pipeline.items()
        if f"artifacts/pack/{image_pack.IMAGES}" in one["deps"]
    }
    assert readers == {"train", "retrain", "unlearn", "pool", "probe", "score", "climb"}
    assert all(f"artifacts/pack/{image_pack.ROWS}" in pipeline[name]["deps"] for name in readers)
