"""Decode an image file into the pixels that models see.

Every file, grey or colour, is treated alike: turned by `data.orientation`, transparent pixels laid
on `data.background`, deep pixels reduced to 8 bits by `data.white`, made square by `data.resize`.
Of a file with several pictures the first is used. TIFF files are always turned: Pillow does it
while it decodes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from tasks.common.settings import Data

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, pixels; a larger one counts as a decompression bomb."""

MAX_BYTES = 512 * 2**20
"""Largest image file that is read, bytes."""

ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation; Pillow reads it from XMP as well."""

MAX_SAMPLE, MAX_SAMPLE_ANY_TYPE, SAMPLE_BITS, SAMPLE_FORMAT = 281, 341, 258, 339
"""TIFF tags with the range of the samples."""

_PNG = b"\x89PNG\r\n\x1a\n"

SIGNED = 2
"""Value of the TIFF tag `SAMPLE_FORMAT` for signed whole numbers."""


class _OutOfRangeError(ValueError):
    """A pixel is darker than black or brighter than white."""


@dataclass(frozen=True)
class Decoded:
    """An image file, decoded whole and not changed yet.

    Attributes:
        picture: as Pillow gives it, in the mode of the file.
        white: the value of white, where a channel has more than 8 bits; else None.
        stated: whether the file itself says that value.
        cut: whether Pillow cut its colours from 16 to 8 bits.
    """

    picture: Image.Image
    white: float | None
    stated: bool
    cut: bool

    @property
    def has_more(self) -> bool:
        """Whether the file holds further pictures, which are not read."""
        return int(getattr(self.picture, "n_frames", 1)) > 1

    @property
    def turned(self) -> bool:
        """Whether EXIF or XMP says that the picture has to be turned or mirrored."""
        return self.picture.getexif().get(ORIENTATION, 1) not in (0, 1)

    @property
    def peak(self) -> float:
        """The largest value of a channel."""
        return float(np.asarray(self.picture).max())


def read(content: bytes, name: str) -> Decoded:
    """Decode an image file of any format that Pillow reads.

    Args:
        content: the file's bytes.
        name: what an error calls it, e.g. `record r1`.

    Raises:
        DataError: truncated, no image, or too large.
    """
    import io

    from PIL import Image, ImageFile

    # another library of the process may have asked Pillow to take truncated images
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        picture = Image.open(io.BytesIO(content), formats=_formats())
        _refuse_bomb(picture)
        picture.load()
        return Decoded(picture, *_white(picture, content), _is_cut(picture, content))
    except Exception as error:  # decoders of damaged bytes raise nearly anything
        raise _refusal(name, error) from error


def decode(content: bytes, name: str, data: Data) -> Image.Image:
    """An image file as a picture of 8 bits per channel, mode L or RGB, upright, without
    transparency.

    Args:
        content: the file's bytes.
        name: what an error calls it, e.g. `record r1`.
        data: the settings `orientation`, `background` and `white`.

    Raises:
        DataError: as `read`, or the values of the pixels are outside their range.
    """
    decoded = read(content, name)
    try:
        return _eight_bits(decoded, data)
    except _OutOfRangeError as error:
        raise DataError(
            f"{name}: {error}; set the value of white (import --white, data.white), or convert the "
            "image to 8 bits"
        ) from error
    except Exception as error:  # as in `read`: damage in the metadata shows only here
        raise _refusal(name, error) from error


def pixels(picture: Image.Image, data: Data) -> NDArray[np.uint8]:
    """The pixels of a decoded picture that models see.

    Args:
        picture: as `decode` returns it.
        data: channels (1 grey, 3 RGB), side of the images, and how they are brought to it.

    Returns:
        (channels, size, size) uint8.
    """
    side = data.image_size
    mode = "L" if data.channels == 1 else "RGB"
    array = np.asarray(_square(picture if picture.mode == mode else picture.convert(mode), data))
    return array.reshape(side, side, data.channels).transpose(2, 0, 1)


def _square(picture: Image.Image, data: Data) -> Image.Image:
    """A picture as a square: stretched, or scaled by its shorter side and cropped in the middle, as
    by torchvision's `Resize` and `CenterCrop`; antialiased either way."""
    from PIL import Image

    side = data.image_size
    filtering = Image.Resampling[data.interpolation.upper()]
    if data.resize == "stretch":
        size = (side, side)
    else:
        short = data.shorter_side or side
        width, height = picture.size
        size = (
            (short, int(short * height / width))
            if width <= height
            else (int(short * width / height), short)
        )
    scaled = picture if picture.size == size else picture.resize(size, filtering)
    if size == (side, side):
        return scaled
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return scaled.crop((left, top, left + side, top + side))


def _refusal(name: str, error: Exception) -> DataError:
    reason = str(error) if isinstance(error, ValueError) else type(error).__name__
    return DataError(
        f"{name}: its image file cannot be decoded ({reason}); it is truncated"
        " or not an image that Pillow reads: restore it or remove the record from the manifest"
    )


def _refuse_bomb(picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")


def _eight_bits(decoded: Decoded, data: Data) -> Image.Image:
    from PIL import Image, ImageOps

    picture = decoded.picture
    if data.orientation == "apply" and decoded.turned:
        picture = ImageOps.exif_transpose(picture)
    if decoded.white is not None:
        return Image.fromarray(_scaled(picture, data.white or decoded.white))
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        if data.background != "ignore":
            background = Image.new("RGBA", clear.size, (*[data.background] * 3, 255))
            clear = Image.alpha_composite(background, clear)
        opaque = clear.convert("RGB")
        return opaque.convert("L") if picture.mode in ("L", "LA", "La", "1") else opaque
    mode = "L" if picture.mode in ("L", "1") else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _scaled(picture: Image.Image, white: float) -> NDArray[np.uint8]:
    values = np.asarray(picture).astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        raise _OutOfRangeError(
            f"got pixels from {values.min():g} to {values.max():g}, expected 0 … {white:g}"
        )
    return np.floor(values / white * 255 + 0.5).astype(np.uint8)


def _white(picture: Image.Image, content: bytes) -> tuple[float | None, bool]:
    """The value of white of a deep picture, and whether the file says it; None with 8 bits."""
    if picture.mode[0] not in "IF":
        return None, False
    tags = getattr(picture, "tag_v2", {})
    for tag in (MAX_SAMPLE, MAX_SAMPLE_ANY_TYPE):
        if (stated := _number(tags.get(tag))) and stated > 0:
            return stated, True
    if picture.mode == "F":
        return 1.0, False
    bits = _significant_bits(content)
    if bits is not None and not _fills_16_bits(np.asarray(picture), bits):
        return float(2**bits - 1), True
    depth = int(_number(tags.get(SAMPLE_BITS)) or 16)
    return float(2 ** (depth - (_number(tags.get(SAMPLE_FORMAT)) == SIGNED)) - 1), False


def _is_cut(picture: Image.Image, content: bytes) -> bool:
    if picture.mode[0] in "IF":
        return False
    bits = _number(getattr(picture, "tag_v2", {}).get(SAMPLE_BITS))
    return bits == 16 or (content.startswith(_PNG) and content[24:25] == b"\x10")


def _number(tag: object) -> float | None:
    first = tag[0] if isinstance(tag, tuple) and tag else tag
    return float(first) if isinstance(first, (int, float)) else None


def _significant_bits(content: bytes) -> int | None:
    """The number of bits in the chunk sBIT of a grey PNG of 16 bits, if it is below 16."""
    if not content.startswith(_PNG):
        return None
    offset = 8
    while offset + 9 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, offset)
        if kind == b"IDAT":
            return None
        if kind == b"sBIT":
            return content[offset + 8] if 0 < content[offset + 8] < 16 else None
        offset += 12 + length
    return None


def _fills_16_bits(values: NDArray[np.integer], bits: int) -> bool:
    """Whether samples are scaled to 16 bits, as the PNG standard asks of a file with sBIT: a value
    beyond the significant bits, or low bits that are zero or repeat the high ones."""
    if values.max() >= 2**bits:
        return True
    spare = 16 - bits
    low = values % 2**spare
    return bool(((low == 0) | (low == values >> bits)).all())


def _formats() -> list[str]:
    """Pillow's formats, the usual ones first, without those that call other programs."""
    global _known_formats
    if not _known_formats:
        from PIL import Image

        Image.init()
        preferred = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
        _known_formats = preferred + [
            name for name in Image.ID if name not in (*preferred, "EPS", "WMF")
        ]
    return _known_formats


_known_formats: list[str] = []
