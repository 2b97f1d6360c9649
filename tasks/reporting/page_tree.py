"""A page as data: its elements, texts and pictures, for the layout of the PDF.

The page is the one that browsers show, so the PDF says the same words. Every text stays data: the
layout never reads one as markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

REPLACEMENT = "\ufffd"
Node = dict[str, Any] | str
"""A text, or an element: its tag `t`, its classes `c`, the nodes in it `k`, and what its kind needs
beside these."""

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})
_INLINE = frozenset({"a", "b", "br", "code", "small", "span", "strong", "svg"})
_WHOLE = frozenset({"tr", "div", "dd", "section", "figure", "pre"})
LONGEST_WHOLE = 1500
"""What has no more characters than this stands on one page as a whole, as it fits on one."""
_TABLE, _GAP, _LONGEST, _SIGN = 52.0, 1.0, 9.0, 1.6
"""Of tables, em: how wide they are, the space between columns, what a word may need at most, and
what a sign before a word needs."""
_SIGNED = (1.0, 1.0, 1.4, 1.4)
"""The shares of the columns that are signed in: role, name, decision, signature."""
_HIDDEN = frozenset({"contents", "languages"})
"""Classes of what is of use on a screen only."""
_PICTURE = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_DROPPED = re.compile(r"<(style|script)\b.*?</\1>", re.DOTALL)
_INVISIBLE = re.compile("[\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e0fff]")
"""Characters without a shape that steer the text around them."""
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f"
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufff0-\ufffc\ufffe\uffff"
    "\U000f0000-\U0010ffff]"
)
"""Characters without a meaning of their own; PDF/A-3a allows them in no text."""
_BLANK = re.compile(r"[ \t\n\r\f]+")
_LONG = re.compile(r"([!-~\u00a1-\u2e7f]{20,})")
"""Letters, digits and signs that no space parts."""
_PIECE = re.compile(r"[^/_.,:=&?-]{1,4}[/_.,:=&?-]?|[/_.,:=&?-]")
"""Between two pieces of a long word a line may break."""


@dataclass
class Element:
    """An element of a page.

    Attributes:
        tag: name of the HTML element.
        attributes: its attributes.
        kids: elements and texts in it.
    """

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    kids: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Its classes, in their order."""
        return self.attributes.get("class", "").split()

    def below(self) -> Iterator[Element]:
        """The elements below this one, in the order of the page."""
        for kid in self.kids:
            if isinstance(kid, Element):
                yield kid
                yield from kid.below()

    def all(self, tag: str) -> Iterator[Element]:
        """The elements of a kind below this one, in the order of the page."""
        return (element for element in self.below() if element.tag == tag)

    def text(self) -> str:
        """All text below this element, a line feed for each break."""
        return "".join(
            kid if isinstance(kid, str) else "\n" if kid.tag == "br" else kid.text()
            for kid in self.kids
        )


def read(html: str) -> dict[str, Any]:
    """A page as data.

    Returns:
        Its `language`, `title`, `author` and `subject`; how it numbers its sheets as `folio`, with
        `{page}` and `{pages}` for the numbers; the texts of its `heading`, its `running` line and
        its `verdict`, empty where it has none; the classes of its body as `classes`; and what
        stands in it as `body`, a list of nodes.
    """
    pictures: list[str] = []

    def keep(match: re.Match[str]) -> str:
        pictures.append(match[0])
        return f'<img data-picture="{len(pictures) - 1}">'

    page = _DROPPED.sub("", _UNPRINTABLE.sub(REPLACEMENT, _INVISIBLE.sub("", html)))
    reader = _PageReader()
    reader.feed(_PICTURE.sub(keep, page))
    reader.close()
    (document,) = reader.root.all("html")
    (body,) = document.all("body")
    (title,) = document.all("title")
    metas = {meta.attributes.get("name"): meta.attributes for meta in document.all("meta")}
    return {
        "language": document.attributes["lang"],
        "title": _BLANK.sub(" ", title.text()).strip(),
        "author": metas["author"]["content"],
        "subject": metas.get("description", {}).get("content", ""),
        "folio": metas["folio"]["content"],
        "classes": body.classes,
        "heading": _text_of_first(body, lambda element: element.tag == "h1"),
        "running": _text_of_first(body, lambda element: "running" in element.classes),
        "verdict": _text_of_first(body, lambda element: element.attributes.get("id") == "decision"),
        "body": _Walk(pictures).block(body.kids),
    }


def _text_of_first(body: Element, is_sought: Callable[[Element], bool]) -> str:
    """The text of the first element of a kind, empty where there is none."""
    element = next(filter(is_sought, body.below()), None)
    return "" if element is None else _BLANK.sub(" ", element.text()).strip()


class _PageReader(HTMLParser):
    """Reads a page of our templates, in which every element is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].kids.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].kids.append(data)


class _Walk:
    """Turns elements into nodes, and white space into what a browser shows of it."""

    def __init__(self, pictures: list[str]) -> None:
        self._pictures = pictures
        self._after_space = True

    def block(self, kids: Iterable[Element | str], spaced: bool = False) -> list[Node]:
        """The nodes of a block; no space begins or ends it."""
        self._after_space = True
        nodes = self._nodes(kids, spaced)
        self._after_space = True
        return nodes if spaced else _without_last_space(nodes)

    def _nodes(self, kids: Iterable[Element | str], spaced: bool) -> list[Node]:
        nodes: list[Node] = []
        for kid in kids:
            if isinstance(kid, str):
                nodes += self._text(kid, spaced)
            elif not _HIDDEN.intersection(kid.classes):
                if kid.tag not in _INLINE and kid.tag != "img":
                    nodes = _without_last_space(nodes)
                nodes.append(self._element(kid, spaced))
        return nodes

    def _text(self, text: str, spaced: bool) -> list[Node]:
        if spaced:
            self._after_space = self._after_space and not text
            lines = text.replace("\r\n", "\n").replace("\u2028", "\n").split("\n")
            nodes: list[Node] = list(_breakable(lines[0]))
            for line in lines[1:]:
                nodes += [{"t": "br"}, *_breakable(line)]
            return nodes
        text = _BLANK.sub(" ", text)
        if self._after_space:
            text = text.removeprefix(" ")
        if text:
            self._after_space = text.endswith(" ")
        return _breakable(text)

    def _element(self, element: Element, spaced: bool) -> Node:
        tag, classes = element.tag, element.classes
        if tag == "img":
            self._after_space = False
            return _picture(self._pictures[int(element.attributes["data-picture"])])
        if tag == "br":
            self._after_space = True
            return {"t": "br"}
        spaced = spaced or tag == "pre" or "whole" in classes
        inline = tag in _INLINE
        node: dict[str, Any] = {"t": tag}
        node["k"] = (
            self._nodes(element.kids, spaced) if inline else self.block(element.kids, spaced)
        )
        if classes:
            node["c"] = classes
        if tag == "table":
            node["columns"] = columns(element)
        if tag in _WHOLE and len(element.text()) > LONGEST_WHOLE:
            node["long"] = True
        for name in ("href", "colspan"):
            if name in element.attributes:
                node[name] = element.attributes[name]
        return node


def _without_last_space(nodes: list[Node]) -> list[Node]:
    """Nodes of which the last text does not end in a space."""
    if nodes and isinstance(nodes[-1], str):
        stripped = nodes[-1].removesuffix(" ")
        return nodes[:-1] + ([stripped] if stripped else [])
    return nodes


def _breakable(text: str) -> list[Node]:
    """A text, its long words in pieces between which lines may break."""
    if not text:
        return []
    parts = _LONG.split(text)
    return [
        {"t": "pieces", "k": _PIECE.findall(part)} if index % 2 else part
        for index, part in enumerate(parts)
        if part
    ]


def _picture(source: str) -> Node:
    """A picture: its source, and in words what it shows; no words where it only adorns."""
    head = source[: source.index(">")]
    classes = re.search(r' class="([^"]*)"', head)
    if " xmlns=" not in head:
        source = source.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    node: dict[str, Any] = {
        "t": "svg",
        "source": source,
        "c": classes[1].split() if classes else [],
    }
    if "aria-hidden" not in head:
        reader = _PageReader()
        reader.feed(source)
        (picture,) = reader.root.all("svg")
        descriptions = (part.text() for tag in ("title", "desc") for part in picture.all(tag))
        node["alt"] = ". ".join(_BLANK.sub(" ", part).strip() for part in descriptions)
    return node


def columns(table: Element) -> list[float]:
    """The shares of a table's columns in its width, as CSS shares it out (automatic table layout):
    each has room for its longest word, and what is left goes to those whose lines are longest."""
    if "sign" in table.classes:
        return list(_SIGNED)
    rows = [[cell for cell in row.kids if isinstance(cell, Element)] for row in table.all("tr")]
    whole = [row for row in rows if not any("colspan" in cell.attributes for cell in row)]
    needs = [[_needs(cell) for cell in cells] for cells in zip(*whole, strict=True)]
    least = [max(low for low, _ in column) for column in needs]
    most = [max(high for _, high in column) for column in needs]
    spare = _TABLE - sum(least)
    if sum(most) <= _TABLE:
        return [round(high, 2) for high in most]
    spread = sum(high - low for low, high in zip(least, most, strict=True))
    return [
        round(low + max(spare, 0.0) * (high - low) / spread if spread else low, 2)
        for low, high in zip(least, most, strict=True)
    ]


def _needs(cell: Element) -> tuple[float, float]:
    """The width of a cell's longest word and of its longest line, em."""
    lines = cell.text().strip().split("\n")
    longest = max(_width(line.strip()) for line in lines)
    firm = {"num", "tight"} & set(cell.classes) and cell.attributes.get("scope") != "col"
    word_widths = [min(_width(word), _LONGEST) for line in lines for word in line.split()]
    least = longest if firm else max([*word_widths, 0.0])
    signed = (part for part in cell.all("span") if {"state", "badge"} & set(part.classes))
    states = [_width(part.text()) + _SIGN for part in signed]
    return max([least, *states]) + _GAP, max([longest, *states]) + _GAP


def _width(text: str) -> float:
    """About how wide a text is, em."""
    return sum(
        1.0
        if sign >= "\u2e80"
        else 0.3
        if sign in "fijlrt.,:;'|()[] "
        else 0.62
        if sign.isupper()
        else 0.52
        for sign in text
    )
