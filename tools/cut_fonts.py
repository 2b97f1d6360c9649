"""The Chinese typeface of the reports, cut to the characters that their catalogue uses.

The whole has 65 000 glyphs and 20 MB a weight; the catalogue needs a few hundred of them. Text that
comes from requests or settings and has others is shown in a typeface of the reader's machine.
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
}
"""Files made, and the collections of Debian's package fonts-noto-cjk that they are cut from."""
FACE = "Noto Sans CJK SC"
ALWAYS = "、。《》“”‘’（），：；？！…—年月日−–±×·ραΑ≤≥\u00a0" + "".join(map(chr, range(0x20, 0x7F)))
"""What numbers, dates, names and quotations need beside the catalogue; one typeface for a line
keeps it even."""


def main(source: Path = Path("/usr/share/fonts/opentype/noto")) -> None:
    """Cut the Chinese typeface anew; needed when the catalogue uses a new character, which a test
    finds.

    Example: python -m tools.cut_fonts --source /usr/share/fonts/opentype/noto
    """
    text = characters()
    for made, collection in CUT.items():
        files.write_bytes(FOLDER / made, cut(source / collection, text))
        stage_cli.say(
            f"{FOLDER / made}: {len(text)} characters, {(FOLDER / made).stat().st_size // 1000} kB"
        )


def characters() -> str:
    """The characters of the catalogue, and those that are always needed."""
    catalogue = gettext_catalogues.read(gettext_catalogues.LOCALES / "zh.po")
    said = "".join(
        part
        for message in catalogue
        if message.id
        for part in gettext_catalogues.translations(message)
    )
    return "".join(sorted(set(said) - {"\n"} | set(ALWAYS)))


def cut(collection: Path, text: str) -> bytes:
    """The simplified Chinese face of a collection with only the glyphs of a text, as WOFF2, always
    the same bytes.

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
    font.flavor = "woff2"
    target = BytesIO()
    font.save(target)
    return target.getvalue()


if __name__ == "__main__":
    stage_cli.run(main)
