"""One rule for every image: turned, laid on a background, scaled, brought to a square."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
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
@pytest.mark.parametrize("told", ["exif", "xmp"])
def test_grey_and_colour_are_turned_by_the_same_rule(colour: bool, told: str) -> None:
    pixels = np.zeros((24, 32, 3) if colour else (24, 32), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    content = saved(pixels, "JPEG", **({"exif": exif} if told == "exif" else {"xmp": XMP % 6}))
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
    with pytest.raises(DataError, match=r"record r1: .*outside 0 … 1000; data\.white"):
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
