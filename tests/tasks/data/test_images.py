"""One rule for every image: turned, laid on a background, scaled, brought to a square."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from tasks.common.errors import DataError, SettingsError
from tasks.common.settings import Data, parse
from tasks.data import images

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
)


def saved(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def shown(content: bytes, **settings: Any) -> NDArray[np.uint8]:
    """The picture as an array, by these settings of the section `data`."""
    return np.asarray(images.decode(content, "record r1", Data(**settings)))


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("source", ["exif", "xmp"])
def test_grey_and_colour_are_turned_by_the_same_rule(colour: bool, source: str) -> None:
    pixels = np.zeros((24, 32, 3) if colour else (24, 32), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    content = saved(pixels, "JPEG", **({"exif": exif} if source == "exif" else {"xmp": XMP % 6}))
    upright = shown(content)
    assert upright.shape[:2] == (32, 24)
    assert (upright[:3] > 200).all()
    assert shown(content, orientation="ignore").shape[:2] == (24, 32)


def test_transparent_pixels_lie_on_the_background_that_is_set() -> None:
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:4, :, 3] = 0
    pixels[4:, :, 3] = 255
    for background in (0, 128, 255):
        image = shown(saved(pixels), background=background)
        assert (image[:4] == background).all()
        assert (image[4:] == 200).all()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparency_can_be_ignored_as_torchvisions_own_loader_does(
    kind: str, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    picture = Image.fromarray(pixels)
    if kind == "palette":
        picture.convert("RGB").quantize(8).save(tmp_path / "a.png", transparency=3)
    else:
        picture.convert(kind).save(tmp_path / "a.png")
    theirs = np.asarray(default_loader(str(tmp_path / "a.png")))
    ours = images.decode((tmp_path / "a.png").read_bytes(), "r", Data(background="ignore"))
    np.testing.assert_array_equal(np.asarray(ours.convert("RGB")), theirs)


def test_a_turned_tiff_is_upright_either_way_as_pillow_and_torchvision_read_it(
    tmp_path: Path,
) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    content = saved(np.arange(768, dtype=np.uint8).reshape(24, 32), "TIFF", exif=exif)
    (tmp_path / "a.tif").write_bytes(content)
    theirs = np.asarray(default_loader(str(tmp_path / "a.tif")))
    for orientation in ("apply", "ignore"):
        picture = images.decode(content, "r", Data(orientation=orientation)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(picture), theirs)


@pytest.mark.parametrize(
    ("pixels", "kind", "range_"),
    [
        (np.full((8, 8), 200, np.float32), "TIFF", "from 200 to 200, expected 0 … 1"),
        (np.full((8, 8), -5, np.int32), "TIFF", "from -5 to -5, expected 0 … 2.14748e"),
    ],
)
def test_pixels_out_of_range_are_told_with_the_range_and_what_to_say(
    pixels: NDArray[Any], kind: str, range_: str
) -> None:
    with pytest.raises(DataError, match=rf"got pixels {range_}.*set the value of white"):
        shown(saved(pixels, kind))


RAMP = np.linspace(0, 4095, 64).reshape(8, 8)


def with_significant_bits(content: bytes, bits: int) -> bytes:
    """A PNG with the chunk sBIT."""
    body = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    return content[:33] + chunk + content[33:]


@pytest.mark.parametrize(
    ("content", "white"),
    [
        (with_significant_bits(saved(RAMP.astype(np.uint16)), 12), 4095),
        (with_significant_bits(saved(RAMP.astype(np.uint16) * 16), 12), 65535),
        (saved(RAMP.astype(np.uint16)), 65535),
        (saved(RAMP.astype(np.uint16), "TIFF", tiffinfo={281: 4095}), 4095),
        (b"P5\n8 8\n4095\n" + RAMP.astype(">u2").tobytes(), 65535),
        (saved((RAMP / 4095).astype(np.float32), "TIFF"), 1),
        (saved(RAMP.astype(np.int32), "TIFF"), 2**31 - 1),
    ],
)
def test_deep_images_are_scaled_by_what_the_file_says(content: bytes, white: float) -> None:
    decoded = images.read(content, "record r1")
    values = np.asarray(decoded.picture).astype(float)
    assert decoded.white == white
    assert (shown(content) == np.floor(values / white * 255 + 0.5)).all()


def test_the_value_of_white_can_be_set() -> None:
    image = shown(saved(RAMP.astype(np.uint16)), white=4095)
    assert (image == np.floor(RAMP.astype(np.uint16) / 4095 * 255 + 0.5)).all()
    with pytest.raises(DataError, match=r"record r1: .*expected 0 … 1000; .*data\.white"):
        shown(saved(RAMP.astype(np.uint16)), white=1000)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 57), (24, 24)])
@pytest.mark.parametrize("filtering", ["nearest", "bilinear", "bicubic"])
def test_crop_and_stretch_are_those_of_torchvision(size: tuple[int, int], filtering: str) -> None:
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8))
    mode = v2.InterpolationMode[filtering.upper()]
    cropped = v2.Compose([v2.Resize(20, mode), v2.CenterCrop(16)])
    stretched = v2.Resize((16, 16), mode)
    common: dict[str, Any] = {"channels": 3, "image_size": 16, "interpolation": filtering}
    for theirs, ours in (
        (cropped, Data(resize="crop", shorter_side=20, **common)),
        (stretched, Data(**common)),
    ):
        expected = np.asarray(theirs(picture)).transpose(2, 0, 1)
        assert (images.pixels(picture, ours) == expected).all()


def test_a_shorter_side_that_does_not_fill_the_square_is_refused() -> None:
    with pytest.raises(SettingsError, match="shorter_side"):
        parse({"data": {"image_size": 32, "shorter_side": 24}})
