"""A folder of images comes in byte for byte; what is wrong is named as the user knows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.common.errors import DataError
from tasks.data import records
from tasks.data.importers import folder


def make_folder(folder: Path) -> Path:
    """Three photos of two people in three formats, and their table."""
    (folder / "photos/ada lovelace").mkdir(parents=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    picture.save(folder / "photos/ada lovelace/1.JPG")
    picture.convert("L").save(folder / "photos/ada lovelace/2.webp")
    picture.resize((40, 40)).save(folder / "photos/3.bmp")
    table = folder / "people.csv"
    table.write_text(
        "path,subject_id,label,site,split\nada lovelace/1.JPG,p1,dog,x,training\n"
        "ada lovelace/2.webp,p1,cat,x,training\n3.bmp,p2,dog,y,unseen\n"
    )
    return table


def test_a_folder_of_images_is_copied_byte_for_byte_under_neutral_names(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    summary = folder.import_data(tmp_path / "data", tmp_path / "photos", table)
    assert summary.class_names == ("cat", "dog")
    assert (summary.channels, summary.image_size) == (3, 40)
    manifest = records.read_manifest(tmp_path / "data")
    assert manifest["path"].tolist() == [
        "images/r00001.jpg",
        "images/r00002.webp",
        "images/r00003.bmp",
    ]
    assert manifest["label"].tolist() == [1, 0, 1]
    assert manifest["site"].tolist() == ["x", "x", "y"]
    original = (tmp_path / "photos/ada lovelace/1.JPG").read_bytes()
    assert (tmp_path / "data/images/r00001.jpg").read_bytes() == original


def test_other_identities_are_kept_beside_the_manifest(tmp_path: Path) -> None:
    table, known = make_folder(tmp_path), tmp_path / "known.csv"
    known.write_text("identity_type,identity_value,subject_id\nemail,a@example.org,p1\n")
    folder.import_data(tmp_path / "data", tmp_path / "photos", table, known)
    assert (tmp_path / "data/identities.csv").read_text() == known.read_text()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("3.bmp,p2", "../people.csv,p2", "row 3"),
        ("3.bmp,p2", "absent.bmp,p2", r"absent\.bmp: no such file"),
        ("3.bmp,p2", "3.bmp,Ada Lovelace", "row 3"),
        ("y,unseen", "y,maybe", "row 3"),
        ("subject_id", "who", "subject_id"),
    ],
)
def test_a_faulty_table_is_refused_and_nothing_is_left(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    table = make_folder(tmp_path)
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=named) as caught:
        folder.import_data(tmp_path / "data", tmp_path / "photos", table)
    assert "Ada" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "people.csv"}


def test_a_truncated_image_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    photo = tmp_path / "photos/3.bmp"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1 of 3 image files .*3\.bmp"):
        folder.import_data(tmp_path / "data", tmp_path / "photos", table)
    assert not (tmp_path / "data").exists()


def test_all_unreadable_images_are_listed_at_once_by_the_users_own_path(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    (tmp_path / "photos/3.bmp").write_bytes(b"no image")
    (tmp_path / "photos/ada lovelace/1.JPG").unlink()
    os.mkfifo(tmp_path / "photos/ada lovelace/1.JPG")
    (tmp_path / "photos/ada lovelace/2.webp").unlink()
    with pytest.raises(DataError, match="3 of 3 image files cannot be read") as caught:
        folder.import_data(tmp_path / "data", tmp_path / "photos", table)
    for path in ("ada lovelace/1.JPG", "ada lovelace/2.webp", "3.bmp"):
        assert path in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (",dog,y", ",,y", r"row 3 \(3\.bmp\): its label is blank"),
        (",dog,y,unseen", "", r"row 3: got fewer values than columns"),
        (",p2,", ",nan,", r"row 3 \(3\.bmp\): its subject is blank, NaN or None"),
        (",p2,", ",None,", r"row 3 \(3\.bmp\): its subject is blank, NaN or None"),
        (",p2,", ",,", r"row 3 \(3\.bmp\): its subject is blank, NaN or None"),
        (",dog,y", ",7,y", r"row 1 .*'dog' is a name, and that of row 3 .* is a number"),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, old: str, new: str, fault: str) -> None:
    table = make_folder(tmp_path)
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=rf"people\.csv: {fault}"):
        folder.import_data(tmp_path / "data", tmp_path / "photos", table)


def deep(folder: Path, most: int, **options: Any) -> Path:
    """Two grey images of 16 bits with values up to `most`."""
    folder.mkdir(exist_ok=True)
    for number in range(2):
        ramp = np.linspace(0, most, 64).reshape(8, 8).astype(np.uint16)
        Image.fromarray(ramp).save(folder / f"{number}.png", **options)
    table = folder / "people.csv"
    table.write_text("path,subject_id,label\n0.png,a,0\n1.png,b,1\n")
    return table


def test_twelve_bits_in_sixteen_are_told_and_not_read_nearly_black(tmp_path: Path) -> None:
    table = deep(tmp_path / "in", 4080)
    with pytest.raises(DataError, match=r"nearly black; .*--white 4095"):
        folder.import_data(tmp_path / "data", tmp_path / "in", table)
    folder.import_data(tmp_path / "data", tmp_path / "in", table, white=4095)
    table = deep(tmp_path / "in", 60_000)
    folder.import_data(tmp_path / "data", tmp_path / "in", table)


def test_images_to_be_turned_are_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    table = deep(tmp_path / "in", 60_000, exif=exif)
    (note,) = folder.import_data(tmp_path / "data", tmp_path / "in", table).notes
    assert "2 images are to be turned" in note


def test_images_with_transparency_and_files_of_several_pictures_are_told(tmp_path: Path) -> None:
    table = deep(tmp_path, 255)
    table.write_text("path,subject_id,label\n0.gif,a,0\n1.png,b,1\n2.png,c,1\n")
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    picture.save(tmp_path / "0.gif", save_all=True, append_images=[picture.rotate(90)])
    picture.quantize(8).save(tmp_path / "1.png", transparency=0)
    picture.save(tmp_path / "2.png")
    notes = " ".join(folder.import_data(tmp_path / "data", tmp_path, table).notes)
    assert "1 images have transparent pixels" in notes
    assert "1 files hold several pictures, of which the first is the record" in notes


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("path;subject_id;label", "separated by semicolons"),
        ("path\tsubject_id\tlabel", "separated by tabs"),
        ("Path,Subject_ID,Label", "in lower case"),
        ("path,subject_id,label,label", "a column name occurs twice"),
    ],
)
def test_of_a_header_it_is_said_what_is_wrong(tmp_path: Path, header: str, hint: str) -> None:
    sign = next(sign for sign in ",;\t" if sign in header)
    row = sign.join(["3.bmp", "p2", "0", "0"][: header.count(sign) + 1])
    table = make_folder(tmp_path)
    table.write_text(f"{header}\n{row}\n")
    with pytest.raises(DataError, match=rf"people\.csv: .*{hint}") as caught:
        folder.import_data(tmp_path / "data", tmp_path / "photos", table)
    assert "p2" not in str(caught.value)


def test_a_loop_of_links_is_named_without_a_traceback(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    (tmp_path / "photos/3.bmp").unlink()
    (tmp_path / "photos/3.bmp").symlink_to("3.bmp")
    with pytest.raises(DataError, match=r"people\.csv: row 3 \(3\.bmp\): expected that path"):
        folder.import_data(tmp_path / "data", tmp_path / "photos", table)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    table = make_folder(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for name in ("loop", "absent", "people.csv"):
        with pytest.raises(DataError, match=f"{name}: no such folder"):
            folder.import_data(tmp_path / "data", tmp_path / name, table)
