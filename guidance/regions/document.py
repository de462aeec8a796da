"""The region document: which phrase goes where. The HIGHLIGHTS socket carries its plain form (`Document.to_dict`).

Schema version 1, plain JSON::

    {"version": 1, "highlights": [
      {"phrase": "red circle", "occurrence": 1, "strength": 1.0, "color": "#e6194b",
       "instances": [{"shapes": [
          {"type": "stroke", "points": [[0.2, 0.3], [0.7, 0.3]], "width": 0.06},
          {"type": "box", "box": [0.1, 0.1, 0.4, 0.5]},
          {"type": "polygon", "points": [[0.5, 0.1], [0.9, 0.9], [0.1, 0.9]]},
          {"type": "mask", "png": "<base64 of an 8-bit gray PNG>"}]}]}]}

Coordinates are fractions: x of the image's width, y of its height, (0, 0) at the top left. A stroke's ``width`` is a
fraction of the image's short side. Several shapes of one instance are one object; several instances are several
objects that the phrase names. ``occurrence`` is which mention of the phrase in the prompt is meant, from 1.
``occurrence``, ``strength`` (0 is off), ``color`` and a stroke's ``width`` may be left out. A highlight with
``"hidden": true`` is left out altogether, unread but for its keys: the canvas keeps it there to be shown again.

What the unusual cases mean:

* partly outside the canvas: the part outside is lost. Wholly outside: an error (for a stroke, its centre line counts).
* a mask is stretched over the whole image, so a mask of another aspect ratio is stretched too; a 1x1 mask that is not
  black covers the whole image; gray values are soft coverage; an all-black mask is an error.
* a document without highlights is valid and changes nothing.

Errors are `LimelightError` and begin with the place, such as ``highlights[0].instances[1].shapes[0].points[3]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import flag, json_text, listed, mapping, number, show, whole
from ..errors import LimelightError
from . import geometry, maskpng

VERSION = 1
MAX_HIGHLIGHTS = 64
MAX_INSTANCES = 64  # of one highlight
MAX_SHAPES = 256  # of one instance
MAX_POINTS = 10_000  # of one shape
MAX_PHRASE = 500  # characters
MAX_STRENGTH = 10.0
MAX_OCCURRENCE = 1000
MAX_COORDINATE = 10.0  # farther out is a mistake, mostly pixels
MIN_EXTENT = 0.001  # of a box's side and a stroke's width: anything smaller is a slip of the mouse
DEFAULT_WIDTH = 0.06
KEYS = ("phrase", "occurrence", "strength", "color", "hidden", "instances")  # of a highlight


@dataclass(frozen=True)
class Stroke:
    """A polyline with round caps and joins. One point is a dot. ``width``: fraction of the image's short side."""

    points: tuple[tuple[float, float], ...]
    width: float = DEFAULT_WIDTH

    def to_dict(self) -> dict:
        return {"type": "stroke", "points": [list(point) for point in self.points], "width": self.width}


@dataclass(frozen=True)
class Box:
    """``box`` is (x0, y0, x1, y1) with x0 < x1 and y0 < y1."""

    box: tuple[float, float, float, float]

    def to_dict(self) -> dict:
        return {"type": "box", "box": list(self.box)}


@dataclass(frozen=True)
class Polygon:
    """At least three corners; closed by itself. Where it overlaps itself, the even-odd rule holds."""

    points: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict:
        return {"type": "polygon", "points": [list(point) for point in self.points]}


@dataclass(frozen=True)
class Raster:
    """A mask, stretched over the whole image. ``png``: base64 of an 8-bit gray PNG (see `maskpng`)."""

    png: str

    def to_dict(self) -> dict:
        return {"type": "mask", "png": self.png}


Shape = Stroke | Box | Polygon | Raster


@dataclass(frozen=True)
class Instance:
    """One object: the union of its shapes."""

    shapes: tuple[Shape, ...]

    def to_dict(self) -> dict:
        return {"shapes": [shape.to_dict() for shape in self.shapes]}


@dataclass(frozen=True)
class Highlight:
    """A phrase of the prompt and the objects that it names."""

    phrase: str
    instances: tuple[Instance, ...]
    occurrence: int = 1
    strength: float = 1.0
    color: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What makes two highlights the same mention: case and spacing do not tell phrases apart."""
        return " ".join(self.phrase.lower().split()), self.occurrence

    def to_dict(self) -> dict:
        plain = {"phrase": self.phrase, "occurrence": self.occurrence, "strength": self.strength}
        if self.color is not None:
            plain["color"] = self.color
        return plain | {"instances": [instance.to_dict() for instance in self.instances]}


@dataclass(frozen=True)
class Document:
    """All highlights of one image."""

    highlights: tuple[Highlight, ...] = ()

    def to_dict(self) -> dict:
        """The plain form that the HIGHLIGHTS socket carries: dicts, lists, texts and numbers only."""
        return {"version": VERSION, "highlights": [highlight.to_dict() for highlight in self.highlights]}

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent)


def parse(value: Any) -> Document:
    """Checks the plain form (or passes a `Document` through). Raises `LimelightError` with the place of the mistake."""
    if isinstance(value, Document):
        return value
    mapping(value, "highlights document", ("version", "highlights"))
    version = value.get("version")
    if type(version) is not int or version != VERSION:
        raise LimelightError(f"version: found {show(version)}; expected {VERSION}. Correct it, or update Limelight.")
    highlights = listed(value.get("highlights"), "highlights", 0, MAX_HIGHLIGHTS, "highlights")
    shown = ((i, item) for i, item in enumerate(highlights) if not _hidden(item, f"highlights[{i}]"))
    return _checked((i, parse_highlight(item, f"highlights[{i}]")) for i, item in shown)


def parse_text(text: Any) -> Document:
    """Reads JSON text. A slip in the JSON itself is reported with its line and column."""
    return parse(json_text(text, "text", "the highlights document"))


def merge(first: Document, second: Document) -> Document:
    """The highlights of both, in order; each mention of a phrase at most once."""
    return _checked(enumerate((*first.highlights, *second.highlights)))


def add(document: Document | Mapping | None, highlight: Highlight) -> Document:
    """``document`` (either form, or None for an empty one) with one more highlight."""
    return merge(Document() if document is None else parse(document), Document((highlight,)))


def parse_highlight(value: Any, path: str = "") -> Highlight:
    """One highlight in its plain form. ``path`` is put before the field names in errors."""
    at = f"{path}." if path else ""
    mapping(value, path or "highlight", KEYS)
    phrase = value.get("phrase")
    if not isinstance(phrase, str) or not phrase.strip():
        raise LimelightError(
            f"{at}phrase: found {show(phrase)}; expected words of the prompt. Write the words that the region is for."
        )
    phrase = phrase.strip()
    if len(phrase) > MAX_PHRASE or any("\ud800" <= letter <= "\udfff" for letter in phrase):
        raise LimelightError(
            f"{at}phrase: found {show(phrase)} ({len(phrase)} characters); expected at most {MAX_PHRASE} characters "
            "of valid Unicode. Name the object in a few words of the prompt."
        )
    first = "1 is the first place where the prompt says the phrase."
    occurrence = whole(value.get("occurrence", 1), f"{at}occurrence", 1, MAX_OCCURRENCE, first)
    strength = number(value.get("strength", 1.0), f"{at}strength", 0.0, MAX_STRENGTH)
    color = value.get("color")
    if color is not None and not (isinstance(color, str) and re.fullmatch("#[0-9a-fA-F]{6}", color)):
        raise LimelightError(
            f"{at}color: found {show(color)}; expected a colour such as #e6194b. Leave it out for an automatic one."
        )
    return Highlight(phrase, parse_instances(value.get("instances"), f"{at}instances"), occurrence, strength, color)


def parse_instances(value: Any, path: str = "instances") -> tuple[Instance, ...]:
    """The list of instances of a highlight, also as found on a conditioning."""
    if value == []:
        raise LimelightError(f"{path}: found none, so nothing is drawn for the phrase. Draw it, or take it out.")
    instances = []
    for i, item in enumerate(listed(value, path, 1, MAX_INSTANCES, "instances")):
        where = f"{path}[{i}].shapes"
        shapes = listed(mapping(item, f"{path}[{i}]", ("shapes",)).get("shapes"), where, 1, MAX_SHAPES, "shapes")
        instances.append(Instance(tuple(_shape(shape, f"{where}[{k}]") for k, shape in enumerate(shapes))))
    return tuple(instances)


def _hidden(value: Any, path: str) -> bool:
    return flag(mapping(value, path, KEYS).get("hidden", False), f"{path}.hidden")


def _checked(numbered: Iterable[tuple[int, Highlight]]) -> Document:
    highlights = dict(numbered)
    if len(highlights) > MAX_HIGHLIGHTS:
        raise LimelightError(f"highlights: found {len(highlights)}; expected at most {MAX_HIGHLIGHTS}. Remove some.")
    seen: dict[tuple[str, int], int] = {}
    for i, highlight in highlights.items():
        first = seen.setdefault(highlight.key, i)
        if first != i:
            raise LimelightError(
                f"highlights[{i}].phrase: {show(highlight.phrase)}, occurrence {highlight.occurrence}, already has a "
                f"highlight (highlights[{first}]). Put all its regions into one highlight as several instances, or "
                "choose another occurrence if the prompt says the phrase more than once."
            )
    return Document(tuple(highlights.values()))


def _shape(value: Any, path: str) -> Shape:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "stroke":
        mapping(value, path, ("type", "points", "width"))
        points = _points(value.get("points"), f"{path}.points", 1)
        width = number(value.get("width", DEFAULT_WIDTH), f"{path}.width", MIN_EXTENT, 1.0)
        if not geometry.polyline_enters_canvas(points):
            raise _outside(path, "stroke")
        return Stroke(points, width)
    if kind == "box":
        mapping(value, path, ("type", "box"))
        return Box(_box(value.get("box"), f"{path}.box", path))
    if kind == "polygon":
        mapping(value, path, ("type", "points"))
        points = _points(value.get("points"), f"{path}.points", 3)
        if geometry.collinear(points):
            raise LimelightError(
                f"{path}: a polygon whose corners lie on one line has no area. Move a corner, or use a stroke."
            )
        if not geometry.polygon_enters_canvas(points):
            raise _outside(path, "polygon")
        return Polygon(points)
    if kind == "mask":
        mapping(value, path, ("type", "png"))
        if not maskpng.decode(value.get("png"), f"{path}.png").any():
            raise LimelightError(f"{path}.png: the mask is empty (all black). Paint the region white.")
        return Raster(value["png"])
    found = f"type {show(kind)}" if isinstance(value, Mapping) else show(value)
    raise LimelightError(f'{path}: found {found}; expected a shape of type "stroke", "box", "polygon" or "mask".')


def _box(value: Any, where: str, path: str) -> tuple[float, float, float, float]:
    corners = listed(value, where, 4, 4, "numbers (x0, y0, x1, y1)")
    x0, y0, x1, y1 = (_coordinate(corner, f"{where}[{i}]") for i, corner in enumerate(corners))
    if x1 - x0 < MIN_EXTENT or y1 - y0 < MIN_EXTENT:
        raise LimelightError(
            f"{where}: found a box {x1 - x0:g} wide and {y1 - y0:g} high; expected {MIN_EXTENT} or more (left, top, "
            "right, bottom in this order). Make the box larger."
        )
    if min(x1, 1) - max(x0, 0) < MIN_EXTENT or min(y1, 1) - max(y0, 0) < MIN_EXTENT:
        raise _outside(path, "box")
    return x0, y0, x1, y1


def _points(value: Any, path: str, least: int) -> tuple[tuple[float, float], ...]:
    points = []
    for i, pair in enumerate(listed(value, path, least, MAX_POINTS, "points")):
        x, y = listed(pair, f"{path}[{i}]", 2, 2, "numbers (x, y)")
        points.append((_coordinate(x, f"{path}[{i}][0]"), _coordinate(y, f"{path}[{i}][1]")))
    return tuple(points)


def _coordinate(value: Any, path: str) -> float:
    remedy = "Coordinates are fractions of the image; divide pixels by its width or height."
    return number(value, path, -MAX_COORDINATE, MAX_COORDINATE, remedy)


def _outside(path: str, what: str) -> LimelightError:
    return LimelightError(
        f"{path}: the {what} lies wholly outside the canvas. Coordinates are fractions from 0 (left, top) to 1 (right, "
        "bottom); move it inside."
    )
