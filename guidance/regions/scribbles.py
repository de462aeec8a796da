"""Scribble files -> the region document and the prompt that the published evaluation makes from them.

ScribbleSup (PASCAL-Scribble, jifengdai.org/downloads/scribble_sup) has an XML file for each VOC picture::

    <annotation>
      <size><width>500</width><height>375</height><depth>3</depth></size>
      <polygon><tag>dog</tag><point><X>12</X><Y>40</Y></point> ... </polygon>
    </annotation>

A ``polygon`` is an open line in pixels, made by hand: its points may lie outside the picture and repeat. Several lines
may have the same tag; each counts as one object. Coloured scribble images are read by `scribble_image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from ..checks import number, show, whole
from ..errors import LimelightError
from . import voc
from .document import MIN_EXTENT, Document, Highlight, Instance, Stroke, parse
from .geometry import polyline_enters_canvas
from .letterbox import Letterbox

TEMPLATE = "a photography of {objects}"
LINE_WIDTH = 20.0  # pixels of the picture, as the published evaluation draws the lines
MAX_TEXT = 4 * 2**20  # characters; a dense hand-drawn file has a tenth of it
MAX_DEPTH = 8  # levels of elements
MAX_SIDE = 65_536  # pixels
_FAR = 1e6  # pixels; a coordinate beyond is a damaged file

_PLURALS = {"person": "people", "man": "men", "woman": "women", "child": "children", "foot": "feet", "tooth": "teeth"}
_PLURALS |= {"mouse": "mice", "goose": "geese", "ox": "oxen", "leaf": "leaves", "knife": "knives", "wolf": "wolves"}
_UNCHANGED = {"sheep", "fish", "deer", "aircraft", "people", "men", "women", "children"}


@dataclass(frozen=True)
class Scribbles:
    """What is drawn on a picture of ``size`` (width, height) in pixels."""

    size: tuple[int, int]
    objects: dict[str, tuple[Instance, ...]]
    """By name, in the order of the file: one instance an object, in fractions of the size. No background."""
    colors: dict[str, str] = field(default_factory=dict)
    """Of those names that have one, as #rrggbb."""


def read_xml(text: Any, line_width: float = LINE_WIDTH, size: tuple[int, int] | None = None) -> Scribbles:
    """Reads a ScribbleSup XML text. Raises `LimelightError` with the place of the mistake.

    line_width: of the strokes, in pixels of the picture. size: (width, height) of the picture; by default as in the
    file. Lines tagged "background" are left out, and so are lines wholly outside the picture; points outside of it are
    moved to its border; points that repeat the one before are dropped.
    """
    root = _root(text)
    width, height = size or (_side(root, "width"), _side(root, "height"))
    thickness = number(line_width, "line width", 0.1, MAX_SIDE) / min(width, height)
    objects: dict[str, list[Instance]] = {}
    for i, line in enumerate(root.iter("polygon")):
        tag = (line.findtext("tag") or "").strip()
        if not tag:
            raise LimelightError(f"xml: polygon[{i}] has no <tag>; expected the name of what the line marks.")
        points = [_point(point, f"xml: polygon[{i}].point[{k}]") for k, point in enumerate(line.findall("point"))]
        points = [((x + 0.5) / width, (y + 0.5) / height) for x, y in points]
        if tag == voc.BACKGROUND or not points or not polyline_enters_canvas(points):
            continue
        clipped = ((_clip(x, width), _clip(y, height)) for x, y in points)
        kept = tuple(point for point, _ in groupby(clipped))
        stroke = Stroke(kept, min(max(thickness, MIN_EXTENT), 1.0))
        objects.setdefault(tag, []).append(Instance((stroke,)))
    return Scribbles((width, height), {tag: tuple(instances) for tag, instances in objects.items()})


def compose(
    scribbles: Scribbles,
    target: tuple[int, int] | None = None,
    template: str = TEMPLATE,
    names: Mapping[str, str] | None = None,
    plurals: bool = True,
) -> tuple[Document, str]:
    """-> the region document, letterboxed into ``target`` (width, height), and the prompt that says its phrases.

    template: ``{objects}`` in it stands for "a dog, two nouns in between and a cat". names: what the prompt calls a
    name, by default the words of VOC's class. plurals: a name with several objects is said as "dogs"; otherwise every
    name is said as "a dog". Raises `LimelightError` where there is nothing to say.
    """
    if not scribbles.objects:
        raise LimelightError("scribbles: found none of an object (background does not count); expected at least one.")
    if not isinstance(template, str) or template.count("{objects}") != 1:
        raise LimelightError(
            f"template: found {show(template)}; expected a text with {{objects}} once, where the objects are listed."
        )
    highlights, said = [], []
    for name, instances in scribbles.objects.items():
        words = (names or {}).get(name, voc.words(name)).strip()
        several = plurals and len(instances) > 1
        phrase = plural(words) if several else words
        said.append(phrase if several else with_article(words))
        highlights.append(Highlight(phrase, instances, color=scribbles.colors.get(name)))
    document = Document(tuple(highlights))
    if target is not None:
        document = Letterbox(scribbles.size, target).document(document)
    return parse(document.to_dict()), template.replace("{objects}", listing(said))


def plural(noun: str) -> str:
    """ "dog" -> "dogs", "potted plant" -> "potted plants", "person" -> "people". A plural stays as it is."""
    head, space, last = noun.rpartition(" ")
    lower = last.lower()
    if lower in _UNCHANGED:
        changed = last
    elif lower in _PLURALS:
        changed = _PLURALS[lower]
    elif lower.endswith(("ss", "us", "x", "ch", "sh")):
        changed = last + "es"
    elif lower.endswith("s"):
        changed = last
    elif lower.endswith("y") and lower[-2:-1] not in tuple("aeiou"):
        changed = last[:-1] + "ies"
    else:
        changed = last + "s"
    return head + space + changed


def with_article(noun: str) -> str:
    """ "dog" -> "a dog", "aeroplane" -> "an aeroplane"."""
    return f"an {noun}" if noun[:1].lower() in tuple("aeiou") else f"a {noun}"


def listing(parts: list[str]) -> str:
    """["a dog", "a cat", "people"] -> "a dog, a cat and people"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def target_size(source: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The size of the image to generate: (width, height), 0 for what keeps the aspect of ``source``, to multiples of 8.

    Both 0: the size of ``source``.
    """
    if not width and not height:
        width, height = (max(16, round(side / 8) * 8) for side in source)
        return width, height
    return (
        width or max(16, round(height * source[0] / source[1] / 8) * 8),
        height or max(16, round(width * source[1] / source[0] / 8) * 8),
    )


class _Builder(ElementTree.TreeBuilder):
    """Refuses deep nesting, which costs time and memory out of proportion."""

    depth = 0

    def start(self, tag: str, attributes: dict) -> ElementTree.Element:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LimelightError(f"xml: elements are nested deeper than {MAX_DEPTH}; ScribbleSup files use 4 levels.")
        return super().start(tag, attributes)

    def end(self, tag: str) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def _root(text: Any) -> ElementTree.Element:
    if not isinstance(text, str) or not text.strip():
        raise LimelightError(f"xml: found {show(text)}; expected the text of a ScribbleSup XML file.")
    if len(text) > MAX_TEXT:
        raise LimelightError(f"xml: found {len(text)} characters; expected at most {MAX_TEXT}.")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can be made to explode, and to read other files
        raise LimelightError("xml: found a DTD (<!DOCTYPE ...>); ScribbleSup files have none. Remove it.")
    try:
        root = ElementTree.XML(text.lstrip("\ufeff \t\r\n"), ElementTree.XMLParser(target=_Builder()))
    except LimelightError:
        raise
    except (ElementTree.ParseError, ValueError) as error:
        raise LimelightError(
            f"xml: not readable as XML ({error}). Give the whole file, from <annotation> on."
        ) from error
    if root.tag != "annotation":
        raise LimelightError(
            f"xml: found a document of the kind {show(root.tag)}; expected ScribbleSup's <annotation>."
        )
    return root


def _side(root: ElementTree.Element, name: str) -> int:
    text = (root.findtext(f"size/{name}") or "").strip()
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
    return whole(value, f"xml: size.{name}", 1, MAX_SIDE, "It is the picture's, in pixels.")


def _point(point: ElementTree.Element, path: str) -> tuple[float, float]:
    pair = []
    for axis in ("X", "Y"):
        text = (point.findtext(axis) or "").strip()
        value: float | str
        try:
            value = float(text)
        except ValueError:
            value = text
        pair.append(number(value, f"{path}.{axis}", -_FAR, _FAR, "Coordinates are pixels of the picture."))
    return pair[0], pair[1]


def _clip(fraction: float, count: int) -> float:
    """To the centres of the first and the last pixel."""
    return min(max(fraction, 0.5 / count), 1 - 0.5 / count)
