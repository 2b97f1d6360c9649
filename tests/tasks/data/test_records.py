"""The manifest and the image files: what is read, and what is refused by name."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.settings import Data
from tasks.data import images, records, rules
from tests.worlds import packing

GREY, COLOUR = Data(classes=2, channels=1, image_size=8), Data(classes=2, channels=3, image_size=8)


def png(pixels: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


def make(folder: Path, contents: dict[str, bytes], **columns: list[Any]) -> pd.DataFrame:
    """A data set of files named by their record; `columns` replace or add columns of the
    manifest."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Any]] = {name: [] for name in records.COLUMNS}
    for number, (record_id, content) in enumerate(contents.items()):
        (folder / "images" / f"{record_id}.png").write_bytes(content)
        rows["record_id"].append(record_id)
        rows["subject_id"].append(f"person-{number}")
        rows["label"].append(number % 2)
        rows["path"].append(f"images/{record_id}.png")
        rows["sha256"].append(hashlib.sha256(content).hexdigest())
    table = pd.DataFrame(rows | columns)
    table.to_csv(folder / "manifest.csv", index=False)
    return table


@pytest.fixture
def three(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    make(tmp_path, {f"r{number}": png(image) for number, image in enumerate(pixels)})
    return tmp_path


def test_a_manifest_is_read_with_whole_labels_and_strings_for_all_else(three: Path) -> None:
    manifest = records.read_manifest(three)
    assert manifest["label"].dtype == np.int64
    assert manifest["record_id"].tolist() == ["r0", "r1", "r2"]


def test_strings_that_look_like_numbers_or_absent_values_stay_strings(tmp_path: Path) -> None:
    make(tmp_path, {"a": b"1", "b": b"2"}, record_id=["007", "nan"], site=["NA", "1.50"])
    manifest = records.read_manifest(tmp_path)
    assert manifest["record_id"].tolist() == ["007", "nan"]
    assert manifest["site"].tolist() == ["NA", "1.50"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("record_id", "r0"),
        ("record_id", "a/b"),
        ("record_id", "x" * 65),
        ("subject_id", "someone@example.org"),
        ("subject_id", ""),
        ("label", "1.5"),
        ("label", "-1"),
        ("label", "٣"),
        ("path", "/etc/hostname"),
        ("path", "images/../../secret.png"),
        ("path", "images\\r2.png"),
        ("path", "C:/r2.png"),
        ("path", ""),
        ("path", "images/r0.png"),
        ("sha256", "ABC"),
        ("split", "train"),
    ],
)
def test_a_malformed_value_is_refused_and_its_record_named(
    three: Path, column: str, value: str
) -> None:
    table = pd.read_csv(three / "manifest.csv", dtype=str).assign(split="training")
    table.loc[2, column] = value
    table.to_csv(three / "manifest.csv", index=False)
    with pytest.raises(DataError, match=r"r2|r0|row 3") as caught:
        records.read_manifest(three)
    assert "example.org" not in str(caught.value), "no data subject is named"


def test_a_link_out_of_the_data_folder_is_refused(
    three: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes((three / "images/r1.png").read_bytes())
    (three / "images/r1.png").unlink()
    (three / "images/r1.png").symlink_to(outside)
    with pytest.raises(DataError, match="record r1"):
        records.read_manifest(three)


def test_a_directory_that_is_a_link_out_of_the_data_folder_is_refused(
    three: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path.parent / (tmp_path.name + "-elsewhere")
    (three / "images").rename(elsewhere)
    (three / "images").symlink_to(elsewhere)
    with pytest.raises(DataError, match="record"):
        records.read_manifest(three)


def test_a_link_within_the_data_folder_is_followed(three: Path) -> None:
    (three / "images/r1.png").rename(three / "kept.png")
    (three / "images/r1.png").symlink_to(three / "kept.png")
    assert len(records.read_manifest(three)) == 3


def test_a_subject_in_two_splits_is_refused(three: Path) -> None:
    table = pd.read_csv(three / "manifest.csv", dtype=str)
    table.assign(subject_id="one", split=["training", "training", "unseen"]).to_csv(
        three / "manifest.csv", index=False
    )
    with pytest.raises(DataError, match="same split value"):
        records.read_manifest(three)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"record_id,subject_id,label,path\n", "sha256 is missing"),
        (b"record_id,subject_id,label,path,sha256\n", "no records"),
        (b"record_id,subject_id,label,path,sha256\na,b,0,c,d,e,f\n", "line 2"),
        (b"record_id,record_id,subject_id,label,path,sha256\na,b,c,d,e,f\n", "twice"),
        (b"\xff\xfe\x00r\x00", "UTF-8"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        records.read_manifest(tmp_path)


def test_an_absent_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        records.read_manifest(tmp_path)


@given(st.text(max_size=30))
def test_no_path_is_accepted_that_leaves_the_folder(path: str) -> None:
    root = Path("/nowhere/data")
    if rules.inside(pd.Series([path]), root)[0]:
        assert (root / path).resolve().is_relative_to(root)


@given(st.lists(st.text("ab./\\:\n\0", max_size=6), min_size=1))
def test_a_path_is_judged_the_same_alone_and_among_others(paths: list[str]) -> None:
    root = Path("/nowhere/data")
    alone = [
        bool(rules.inside(pd.Series([path, ".."], dtype=str), root)[0]) for path in paths
    ]  # `..`: one by one
    assert rules.inside(pd.Series(paths, dtype=str), root).tolist() == alone


@given(st.lists(st.text("a0.- \n", max_size=5), min_size=1))
def test_a_value_is_matched_the_same_alone_and_among_others(values: list[str]) -> None:
    expected = [re.fullmatch("[a0.-]{1,4}", value) is not None for value in values]
    rule = rules.Rule("form", rules.ONE_SPLIT, "value", pattern="[a0.-]{1,4}")
    broken = rule.broken(pd.DataFrame({"value": values}, dtype=str))
    assert (~broken).tolist() == expected


def test_images_come_back_as_they_were_stored(three: Path) -> None:
    shown = packing.images(three, GREY)
    assert shown.shape == (3, 1, 8, 8)
    assert shown.dtype == np.uint8
    assert (shown[:, 0] == np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)).all()
    assert (packing.images(three, COLOUR) == shown.repeat(3, axis=1)).all()


def load_one(folder: Path, content: bytes, data: Data = GREY) -> NDArray[np.uint8]:
    make(folder, {"r0": content})
    return packing.images(folder, data).reshape(-1, data.image_size, data.image_size)


def test_a_large_image_is_averaged_not_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(load_one(tmp_path, png(stripes))[0].astype(int) - 100).max() <= 20


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    expected = np.floor(ramp / 65535 * 255 + 0.5)
    assert (load_one(tmp_path, png(ramp))[0] == expected).all()


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:4, :, 3] = 0
    image = load_one(tmp_path, png(pixels), COLOUR)
    assert (image[:, :4] == 0).all()
    assert (image[:, 4:] == 255).all()


def test_the_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = load_one(tmp_path, png(pixels, exif=exif))
    assert (image[0, 7] == 255).all()
    assert (image[0, :7] == 0).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"]
)
def test_every_mode_of_pillow_is_read(tmp_path: Path, mode: str) -> None:
    out = io.BytesIO()
    Image.new("L" if mode == "I;16" else "RGB", (9, 5), 0).convert(mode).save(out, "TIFF")
    assert load_one(tmp_path, out.getvalue(), COLOUR).shape == (3, 8, 8)


def test_a_wrong_hash_is_named(three: Path) -> None:
    (three / "images/r1.png").write_bytes(b"not even an image")
    with pytest.raises(DataError, match="record r1: expected a sound image file"):
        packing.images(three, GREY)


def test_a_missing_file_is_named(three: Path) -> None:
    (three / "images/r2.png").unlink()
    with pytest.raises(DataError, match="record r2"):
        packing.images(three, GREY)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_image_is_named(tmp_path: Path, share: float) -> None:
    whole = png(np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8))
    with pytest.raises(DataError, match="record r0: expected a sound image file"):
        load_one(tmp_path, whole[: int(len(whole) * share)])


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]),
)
def test_bytes_that_are_no_image_are_refused_and_nothing_else_is_raised(
    body: bytes, start: bytes
) -> None:
    try:
        assert images.decode(start + body, "record r0", GREY).mode in ("L", "RGB")
    except DataError as error:
        assert "record r0" in str(error)  # noqa: PT017 - some of these bytes may be an image


def test_a_decompression_bomb_is_refused() -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    with pytest.raises(DataError, match=r"record r0: .*pixels"):
        images.decode(bomb.getvalue(), "record r0", GREY)


def test_roles_and_forget_set_are_aligned_to_the_manifest(three: Path) -> None:
    manifest = records.read_manifest(three)
    (three / "split.csv").write_text("record_id,role\nr2,control\nr0,training\nr1,test\n")
    (three / "forget.csv").write_text("record_id,request_id\nr2,q\n")
    assert records.read_roles(three / "split.csv", manifest).tolist() == [
        "training",
        "test",
        "control",
    ]
    assert records.read_forget(three / "forget.csv", manifest).tolist() == ["", "", "q"]


def test_an_empty_forget_set_is_no_error(three: Path) -> None:
    (three / "forget.csv").write_text("record_id,request_id\n")
    assert records.read_forget(three / "forget.csv", records.read_manifest(three)).tolist() == [
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "r0,training\nr1,test\n",
        "r0,training\nr1,test\nr2,judge\n",
        "r0,test\nr0,test\nr1,test\nr2,test\n",
        "x,test\n",
    ],
)
def test_a_split_of_other_records_is_refused(three: Path, lines: str) -> None:
    (three / "split.csv").write_text("record_id,role\n" + lines)
    with pytest.raises(DataError, match="record"):
        records.read_roles(three / "split.csv", records.read_manifest(three))
