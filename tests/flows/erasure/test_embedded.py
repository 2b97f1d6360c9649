"""A person's picture or name is found in whatever form other files hold it, and another person's
picture in the same form holds nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import lzma
import pickle
import sqlite3
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.erasure import containers
from flows.erasure.byte_search import ByteSearch
from flows.erasure.matcher import LISTS, RECORDS, UNJUDGED, Judge, Sought

PERSON, OTHER = "person-001", "person-0011"
MAIL = "Zoë.Löwe@example.org"


def shades(number: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)


def saved(number: int, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(shades(number)).save(stream, form, **options)
    return stream.getvalue()


@pytest.fixture
def judge() -> Judge:
    content = saved(0)
    return Judge(
        Sought(
            frozenset({hashlib.md5(content).hexdigest()}),
            contents=frozenset({hashlib.sha256(content).hexdigest()}),
            pixels=frozenset({str(containers.pixels(content))}),
            record_ids=frozenset({"rec-00017"}),
            subject_ids=frozenset({PERSON}),
            identities=frozenset({MAIL}),
        )
    )


def database(cell: object, page: int = 512) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"PRAGMA page_size = {page}")
    connection.execute('CREATE TABLE "a ""b" (number, cell)')
    connection.execute('INSERT INTO "a ""b" VALUES (1, ?)', (cell,))
    connection.commit()
    content = connection.serialize()
    connection.close()
    return content


def with_log(content: bytes) -> bytes:
    """A database that says that it has a write-ahead log."""
    return content[:18] + b"\2\2" + content[20:]


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.png", content)
    return stream.getvalue()


def tarred(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("one.png")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def array(values: np.ndarray, compressed: bool = False) -> bytes:  # type: ignore[type-arg]
    stream = io.BytesIO()
    np.savez_compressed(stream, values) if compressed else np.save(stream, values)
    return stream.getvalue()


def several(number: int, form: str) -> bytes:
    """An image of two frames, of which the second is the person's."""
    stream = io.BytesIO()
    first = Image.fromarray(shades(99))
    first.save(stream, form, save_all=True, append_images=[Image.fromarray(shades(number))])
    return stream.getvalue()


def plain_ppm(number: int) -> bytes:
    return b"P3\n8 8\n255\n" + b" ".join(str(value).encode() for value in shades(number).flat)


def notebook(content: str) -> bytes:
    outputs = [{"data": {"image/png": content}}]
    return json.dumps({"cells": [{"outputs": outputs}], "nbformat": 4}).encode()


def of_git(content: bytes) -> bytes:
    return zlib.compress(b"blob %d\0" % len(content) + content)


HIDDEN: dict[str, Callable[[int], bytes]] = {
    "tar.xz": lambda n: lzma.compress(tarred(saved(n))),
    "older LZMA": lambda n: lzma.compress(saved(n), format=lzma.FORMAT_ALONE),
    "zlib": lambda n: zlib.compress(saved(n)),
    "loose object of another git": lambda n: of_git(saved(n)),
    "zip behind a program": lambda n: b"MZ" + bytes(500) + zipped(saved(n)),
    "picture behind another picture": lambda n: saved(7) + saved(n),
    "zip behind another picture": lambda n: saved(7) + zipped(saved(n)),
    "two members of a gzip": lambda n: gzip.compress(b"text") + gzip.compress(saved(n)),
    "ar, as in a .deb": lambda n: b"!<arch>\none.png/".ljust(68) + saved(n),
    "cpio": lambda n: b"070701" + bytes(110) + saved(n),
    "disk image": lambda n: bytes(32768) + b"\1CD001" + saved(n),
    "pickle of bytes": lambda n: pickle.dumps({"picture": saved(n)}),
    "tensors beside a picture": lambda n: struct.pack("<Q", 2) + b"{}" + saved(n),
    "cell of SQLite": lambda n: database(saved(n)),
    "long cell of SQLite": lambda n: database(zlib.compress(saved(n)) + bytes(1), 512),
    "cell of SQLite with a log": lambda n: with_log(database(saved(n))),
    "SQLite in a zip": lambda n: zipped(database(saved(n))),
    "array of pixels": lambda n: array(shades(n)),
    "array of many": lambda n: array(np.stack([shades(7), shades(n)])),
    "array with channels first": lambda n: array(np.moveaxis(shades(n), -1, 0)),
    "arrays compressed": lambda n: array(shades(n), compressed=True),
    "output of a notebook": lambda n: notebook(base64.b64encode(saved(n)).decode()),
    "output over broken lines": lambda n: notebook(base64.encodebytes(saved(n)).decode()),
    "page with a picture": lambda n: b'<img src="data:image/png;base64,'
    + base64.b64encode(saved(n)) + b'">',
    "address with a picture": lambda n: b"x=" + base64.urlsafe_b64encode(saved(n)),
    "mail": lambda n: b"From: a\r\n\r\n" + base64.encodebytes(saved(n)).replace(b"\n", b"\r\n"),
    "dump of a database": lambda n: f"INSERT INTO t VALUES (X'{saved(n).hex()}');".encode(),
    "dump in capitals": lambda n: f"0x{saved(n).hex().upper()}".encode(),
    "second frame of a TIFF": lambda n: several(n, "TIFF"),
    "second frame of a PNG": lambda n: several(n, "PNG"),
    "icon": lambda n: saved(n, "ICO", sizes=[(8, 8)]),
    "JPEG 2000 without loss": lambda n: saved(n, "JPEG2000", irreversible=False),
    "DDS": lambda n: saved(n, "DDS"),
    "SGI": lambda n: saved(n, "SGI"),
    "numbers as text": plain_ppm,
}  # fmt: skip


@pytest.mark.parametrize("form", HIDDEN)
def test_a_picture_is_found_in_any_form_and_another_persons_is_not(judge: Judge, form: str) -> None:
    assert judge.content(HIDDEN[form](0)) == RECORDS
    assert judge.content(HIDDEN[form](5)) is None


NAMED: dict[str, Callable[[str], bytes]] = {
    "UTF-16": lambda name: f"id\n{name}\n".encode("utf-16"),
    "UTF-16 without a mark": lambda name: f"id\n{name}\n".encode("utf-16-le"),
    "UTF-16 of the other order": lambda name: f"id\n{name}\n".encode("utf-16-be"),
    "UTF-32": lambda name: b"\0" + f"id\n{name}\n".encode("utf-32-be"),
    "other capitals": lambda name: f"to: {name.upper()}\n".encode(),
    "pickle": lambda name: pickle.dumps({"who": [name]}),
    "array of texts": lambda name: array(np.array([name, "nobody"])),
    "array of bytes": lambda name: array(np.array([name.encode(), b"nobody"])),
    "cell of SQLite": lambda name: database(f"written by {name}"),
    "comment of a picture": lambda name: saved(5) + f"by {name}".encode(),
    "comment of a zip": lambda name: zipped(b"x")[:-2] + struct.pack("<H", len(name) + 3)
    + f"by {name}".encode(),
    "name in a gzip": lambda name: gzip.compress(b"x")[:3] + b"\x08" + gzip.compress(b"x")[4:10]
    + f"{name}.txt\0".encode() + gzip.compress(b"x")[10:],
}  # fmt: skip


@pytest.mark.parametrize("form", NAMED)
def test_a_name_is_found_in_any_form_and_a_longer_one_is_not(judge: Judge, form: str) -> None:
    assert judge.content(NAMED[form](PERSON)) == LISTS
    assert judge.content(NAMED[form](OTHER)) is None


@pytest.mark.parametrize(
    "text",
    [
        MAIL,
        unicodedata.normalize("NFD", MAIL),
        json.dumps(MAIL),
        "mailto:Zo%C3%AB.L%C3%B6we%40example.org?subject=hello",
        f"<{MAIL}>",
    ],
)
def test_an_identity_is_found_however_it_is_spelt(judge: Judge, text: str) -> None:
    assert judge.content(f"sent to {text} today\n".encode()) == LISTS


CLOSED = {
    "7-Zip": b"7z\xbc\xaf\x27\x1c",
    "RAR": b"Rar!\x1a\x07",
    "Zstandard": b"\x28\xb5\x2f\xfd",
    "compress": b"\x1f\x9d\x90",
    "lzip": b"LZIP\1",
    "cabinet": b"MSCF\0\0\0\0",
    "SquashFS": b"hsqs",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "Parquet": b"PAR1",
    "Arrow": b"ARROW1\0\0",
    "HEIC": b"\0\0\0\x18ftypheic",
    "pack of git": b"PACK\0\0\0\2",
    "bundle of git": b"# v2 git bundle\n",
    "SQLite that is damaged": b"SQLite format 3\0" + b"\xff" * 200,
}


@pytest.mark.parametrize("form", CLOSED)
def test_what_cannot_be_opened_is_not_called_clean(judge: Judge, form: str) -> None:
    assert judge.content(CLOSED[form] + bytes(100)) == UNJUDGED


def test_a_stream_that_unpacks_to_too_much_is_not_opened() -> None:
    for pack in (zlib.compress, gzip.compress, lzma.compress):
        packed = pack(bytes(20_000))
        nearly_spent = containers.Budget(spent=[containers.MOST_BYTES - 10_000])
        with pytest.raises(containers.UnopenedError):
            if containers.may_be_packed(packed):
                containers.inflated(packed, nearly_spent)
            else:
                list(containers.members(io.BytesIO(packed), packed, nearly_spent))


def test_text_that_only_begins_like_a_packed_stream_is_text(judge: Judge) -> None:
    assert judge.content(b"x^2 + y^2 = 1\n") is None
    assert judge.content(f"x^2 is due to {PERSON}\n".encode()) == LISTS
    assert judge.content(b"BM is a name, MM, too; II* is none; P1 begins here\n") is None


def test_programs_and_databases_are_looked_at_as_wholes_only(judge: Judge, tmp_path: Path) -> None:
    path = tmp_path / "program.so"
    path.write_bytes(b"\x7fELF\0" + saved(0) + PERSON.encode() + b"\0")
    assert judge.file(path, inside=False) is None
    assert judge.file(path) == LISTS
    path.write_bytes(saved(0))
    assert judge.file(path, inside=False) == RECORDS


def test_names_are_looked_for_across_the_borders_of_what_is_read_at_once() -> None:
    search = ByteSearch([b"person-001", b"Rec-00017"])
    border = 2**24
    for offset in range(border - 12, border + 3):
        content = bytearray(border + 40)
        content[offset : offset + 9] = b"rec-00017"
        assert search.within(bytes(content))
    assert not search.within(b"person-0010, xperson-001, rec-0001")
    assert not search.within(b"perso")
    assert not ByteSearch([]).within(b"person-001")
