"""Cut the Chinese typefaces of the reports to the characters that they need.

The whole has 65 000 glyphs and 20 MB a weight. Pages and PDFs need the few hundred characters of
the catalogue in two weights; PDFs have the usual ones of names and comments, too, in one weight.
What goes beyond that is shown in a typeface of the reader's machine, or of the one that makes the
PDF.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from tasks.common import files, stage_cli
from tasks.common.errors import WorkspaceError
from tools import gettext_catalogues

FOLDER = Path("reports/templates/fonts")
CUT = {
    "NotoSansSC-Regular.woff2": "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Bold.woff2": "NotoSansCJK-Bold.ttc",
    "NotoSansSC-Regular.ttf": "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Bold.ttf": "NotoSansCJK-Bold.ttc",
}
"""Files with the catalogue's characters, WOFF2 for browsers and TrueType for PDFs, and the
collections of Debian's package fonts-noto-cjk that they are cut from."""
USUAL = ("NotoSansSC-More.ttf", "NotoSansCJK-Regular.ttc")
"""The file with the 3755 usual characters of GB 2312 (level 1), for PDFs."""
FAMILY = "Noto Sans SC"
FACE = "Noto Sans CJK SC"
ALWAYS = "、。《》“”‘’（），：；？！…—年月日−–±×·ραΑ≤≥\u00a0" + "".join(map(chr, range(0x20, 0x7F)))
"""What numbers, dates, names and quotations need beside the catalogue; one typeface for a line
keeps it even."""

LIMITS = (
    *("maxPoints", "maxContours", "maxCompositePoints", "maxCompositeContours", "maxZones"),
    *("maxTwilightPoints", "maxStorage", "maxFunctionDefs", "maxInstructionDefs"),
    *("maxStackElements", "maxSizeOfInstructions", "maxComponentElements", "maxComponentDepth"),
)
"""Of table `maxp`; those of outlines are set when it is written."""


def main(source: Path = Path("/usr/share/fonts/opentype/noto")) -> None:
    """Cut the Chinese typeface anew; needed when the catalogue uses a new character, which a test
    finds.

    Example: python -m tools.cut_fonts --source /usr/share/fonts/opentype/noto
    """
    text = characters()
    for name, collection in CUT.items():
        save(name, cut(source / collection, text), FAMILY)
    name, collection = USUAL
    save(name, cut(source / collection, usual_characters()), f"{FAMILY} More")


def characters() -> str:
    """The characters of the catalogue, and those that are always needed."""
    catalogue = gettext_catalogues.read(gettext_catalogues.LOCALES / "zh.po")
    text = "".join(
        part
        for message in catalogue
        if message.id
        for part in gettext_catalogues.translations(message)
    )
    return "".join(sorted(set(text) - {"\n"} | set(ALWAYS)))


def usual_characters() -> str:
    """The Chinese characters of GB 2312, level 1, and the mark for one that cannot be shown."""
    rows = (bytes([row, cell]) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return "\ufffd" + "".join(code.decode("gb2312", "ignore") for code in rows)


def cut(collection: Path, text: str) -> Any:
    """The simplified Chinese face of a collection with only the glyphs of a text.

    Raises:
        WorkspaceError: the collection is missing.
    """
    from fontTools import subset
    from fontTools.ttLib import TTCollection

    try:
        faces = TTCollection(collection).fonts
    except OSError as error:
        raise WorkspaceError(
            f"{collection}: {error.strerror}; install Debian's fonts-noto-cjk, or set --source"
        ) from error
    font: Any = next(face for face in faces if face["name"].getDebugName(4).startswith(FACE))
    font.recalcTimestamp = False
    options = subset.Options(layout_features=["kern", "locl"], hinting=False, notdef_outline=True)
    worker = subset.Subsetter(options)
    worker.populate(text=text)
    worker.subset(font)
    return font


def save(name: str, font: Any, family: str) -> None:
    """Write a typeface, always the same bytes: as WOFF2, or as TrueType under a family's name."""
    if name.endswith(".woff2"):
        font.flavor = "woff2"
    else:
        to_quadratic(font)
        for record in font["name"].names:
            if record.nameID in (1, 16):
                record.string = family
    target = BytesIO()
    font.save(target)
    files.write_bytes(FOLDER / name, target.getvalue())
    glyphs, size = len(font.getGlyphOrder()), len(target.getvalue()) // 1000
    stage_cli.say(f"{FOLDER / name}: {glyphs} glyphs, {size} kB")


def to_quadratic(font: Any) -> None:
    """Turn the cubic outlines of a typeface (CFF) into the quadratic ones of TrueType, to a
    thousandth of its size: a checker of PDF misreads the widths of a cut CFF."""
    from fontTools.pens.cu2quPen import Cu2QuPen
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from fontTools.ttLib import newTable

    outlines, glyphs = font.getGlyphSet(), {}
    for name in font.getGlyphOrder():
        pen = TTGlyphPen(outlines)
        outlines[name].draw(Cu2QuPen(pen, font["head"].unitsPerEm / 1000, reverse_direction=True))
        glyphs[name] = pen.glyph()
    font["loca"], font["glyf"] = newTable("loca"), newTable("glyf")
    font["glyf"].glyphOrder, font["glyf"].glyphs = font.getGlyphOrder(), glyphs
    for glyph in glyphs.values():
        glyph.recalcBounds(font["glyf"])
    for table in ("CFF ", "VORG"):
        if table in font:
            del font[table]
    font["maxp"].tableVersion = 0x00010000
    for limit in LIMITS:
        setattr(font["maxp"], limit, 0)
    font["maxp"].maxZones = 1
    font["post"].formatType = 3.0
    font["head"].glyphDataFormat = 0
    font.sfntVersion = "\0\1\0\0"


if __name__ == "__main__":
    stage_cli.run(main)
