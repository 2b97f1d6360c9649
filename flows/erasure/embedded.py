"""Finds pictures and archives inside other bytes: after the beginning, or as base64 or hexadecimal
digits, as in notebooks, pages and mails.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator

LONGEST = 16 * 2**20
"""Maximum number of bytes that are taken from the beginning of a picture or archive."""
MAX_BEGINNINGS = 20_000
"""Maximum number of beginnings that are followed in one file."""

_PNG = b"\x89PNG\r\n\x1a\n"
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF....WEBP|PK\x03\x04|"
    rb"\x1f\x8b\x08[\0-\x1f]|\xfd7zXZ\0|BZh[1-9]1AY&SY",
    re.DOTALL,
)
_ZIP, _ZIP_END, _ZIP_END_SIZE = b"PK\x03\x04", b"PK\x05\x06", 22
_BREAK = rb"(?:\\r|\\n|\r|\n|=\r?\n|[ \t])*"
_BASE64 = re.compile(
    rb"(?:iVBORw0KGgo|/9j/|_9j_|R0lGOD|SUkqA|TU0AK|UklGR|UEsDB|H4sI|/Td6WF|_Td6WF|QlpoO)"
    rb"(?:[A-Za-z0-9+/_-]" + _BREAK + rb")+"
)
"""Pictures and archives in base64, also over line breaks."""
_HEX = re.compile(
    rb"(?:89504[eE]47|[fF][fF][dD]8[fF]{2}|47494638|49492[aA]00|4[dD]4[dD]002[aA]|52494646|"
    rb"504[bB]0304|1[fF]8[bB]08|[fF][dD]377[aA]58)(?:[0-9a-fA-F]{2}" + _BREAK + rb")+"
)
_NO_BASE64 = re.compile(rb"\\[rn]|[^A-Za-z0-9+/]")


def parts(content: bytes) -> Iterator[bytes]:
    """Possible pictures and archives inside bytes, except at their beginning."""
    zips = content.startswith(_ZIP)
    for number, match in enumerate(_BEGINNINGS.finditer(content, 1)):
        if number >= MAX_BEGINNINGS:
            break
        if match.group() != _ZIP or not zips:  # each of its members begins like a zip
            yield _from(content, match.start())
        zips = zips or match.group() == _ZIP
    for match in _BASE64.finditer(content):
        yield _unbase64(match.group())
    for match in _HEX.finditer(content):
        yield binascii.unhexlify(re.sub(rb"\\[rn]|[^0-9A-Fa-f]", b"", match.group()))


def _from(content: bytes, start: int) -> bytes:
    """The bytes from a beginning up to the end of the picture or archive, if that is easy to
    find."""
    if content.startswith(_PNG, start):
        return content[start : _end_of_png(content, start)]
    if content.startswith(_ZIP, start):
        end = content.rfind(_ZIP_END, start)
        return content[start : end + _ZIP_END_SIZE] if end > 0 else b""
    return content[start : start + LONGEST]


def _end_of_png(content: bytes, start: int) -> int:
    """The end of a PNG's chunks."""
    offset = start + len(_PNG)
    while offset + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, offset)
        kind = content[offset + 4 : offset + 8]
        offset += 12 + size
        if kind == b"IEND":
            break
    return min(offset, len(content))


def _unbase64(text: bytes) -> bytes:
    plain = _NO_BASE64.sub(b"", text.translate(bytes.maketrans(b"-_", b"+/")))
    return base64.b64decode(plain[: len(plain) // 4 * 4])
