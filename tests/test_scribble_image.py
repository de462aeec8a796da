"""Coloured scribble images and the skeletons of what a brush drew."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import scribble_image, voc
from limelight.guidance.regions.document import MAX_INSTANCES, Stroke
from limelight.guidance.regions.raster import coverage
from limelight.guidance.regions.scribbles import compose
from limelight.guidance.regions.skeleton import lines, skeleton

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def drawn(kind: str) -> np.ndarray:
    image = np.zeros((120, 160), np.uint8)
    if kind == "line":
        cv2.polylines(image, [np.array([(20, 20), (80, 90), (140, 60)])], False, 1, 9)
    elif kind == "hair":
        cv2.line(image, (5, 100), (150, 10), 1, 1)
    elif kind == "ring":
        cv2.circle(image, (80, 60), 40, 1, 7)
    elif kind == "fork":
        cv2.line(image, (20, 60), (80, 60), 1, 9)
        cv2.line(image, (80, 60), (140, 20), 1, 9)
        cv2.line(image, (80, 60), (140, 100), 1, 9)
    elif kind == "dot":
        image[50:58, 70:78] = 1
    else:
        image[3, 4] = 1
    return image.astype(bool)


@pytest.mark.parametrize("kind", ["line", "hair", "ring", "fork", "dot", "cell"])
def test_lines_redraw_what_was_drawn(kind):
    mask = drawn(kind)
    paths, thickness = lines(mask)
    shapes = [Stroke(tuple((x / 160, y / 120) for x, y in path), thickness / 120) for path in paths]
    redrawn = coverage(shapes, 120, 160) >= 0.3
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not (redrawn & ~grown).any(), "nothing beside the line"
    away = cv2.distanceTransform((~redrawn).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    assert away[mask].max() <= max(2.5, 0.7 * thickness), "no part of the line is missing"
    if kind in ("line", "hair"):
        (path,) = paths
        ends = {"line": [(20, 20), (140, 60)], "hair": [(5, 100), (150, 10)]}[kind]
        found = sorted((path[0], path[-1]))
        assert all(np.hypot(*np.subtract(a, b)) < 6 for a, b in zip(found, ends, strict=True))
        assert len(path) < 25
    assert thickness == pytest.approx({"line": 9, "hair": 1, "ring": 7, "fork": 9, "dot": 8, "cell": 1}[kind], abs=2)


def test_a_skeleton_is_as_connected_as_the_mask():
    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 3))
    def run(seed, coarse, smooth):
        rng = np.random.default_rng(seed)
        blobs = np.kron(rng.random((12, 12)) < 0.5, np.ones((coarse, coarse))) > 0
        mask = np.pad(cv2.GaussianBlur(blobs.astype(np.float32), (0, 0), smooth) > 0.5 if smooth else blobs, 1)
        thin = skeleton(mask)
        assert not (thin & ~mask).any()
        parts, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        assert cv2.connectedComponents(thin.astype(np.uint8), connectivity=8)[0] == parts
        assert len(np.unique(labels[thin])) == parts - 1, "each part keeps its own skeleton"

    run()


def picture(**colours: tuple[int, int, int]) -> np.ndarray:
    """A black image with a wide bar for each colour, and a second, shorter one for those named "two..."."""
    image = np.zeros((90, 120, 3), np.uint8)
    for i, (name, colour) in enumerate(colours.items()):
        image[10 + 20 * i : 16 + 20 * i, 10:60] = colour
        if name.startswith("two"):
            image[10 + 20 * i : 16 + 20 * i, 80:110] = colour
    return image


def test_voc_colours():
    read = scribble_image.read_image(picture(dog=voc.color(12), two_people=voc.color(15)))
    assert {name: len(found) for name, found in read.objects.items()} == {"dog": 1, "person": 2}
    assert read.colors == {"dog": "#400080", "person": "#c08080"}
    (stroke,) = read.objects["dog"][0].shapes
    (x0, y0), (x1, y1) = sorted(stroke.points)
    assert y0 == pytest.approx(13 / 90, abs=0.01) and y1 == pytest.approx(13 / 90, abs=0.01)
    assert x0 == pytest.approx(13 / 120, abs=0.03) and x1 == pytest.approx(57 / 120, abs=0.03)
    assert stroke.width == pytest.approx(6 / 90, abs=0.02)
    assert compose(read)[1] == "a photography of a dog and people"
    assert [highlight.color for highlight in compose(read)[0].highlights] == ["#400080", "#c08080"]


def test_own_colours_tolerance_and_areas():
    colors = scribble_image.parse_colors("#ff0000 = red circle\n\n 00ff00=bar\n#0000ff = red circle")
    image = picture(a=(250, 5, 3), b=(0, 255, 0), c=(0, 0, 255))
    read = scribble_image.read_image(image, colors, whole_areas=True)
    assert {name: len(found) for name, found in read.objects.items()} == {"red circle": 2, "bar": 1}
    cells = coverage(read.objects["bar"][0].shapes, 90, 120)
    assert np.abs(cells - (image == (0, 255, 0)).all(-1)).max() < 0.05
    with pytest.raises(
        LimelightError, match=r"^colors: nothing of #ff0000 \(red circle\) is in the image; found #000000"
    ):
        scribble_image.read_image(image, colors, tolerance=2)


def test_smoothed_edges_make_no_objects():
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.line(image, (20, 30), (170, 150), (128, 0, 0), 9, cv2.LINE_AA)
    cv2.circle(image, (60, 150), 30, (0, 128, 0), 5, cv2.LINE_AA)
    read = scribble_image.read_image(image)
    assert {name: len(found) for name, found in read.objects.items()} == {"aeroplane": 1, "bicycle": 1}


BAD_IMAGES = {
    "unknown colours": ("", picture(a=(1, 200, 77)), "^image: found none of PASCAL VOC's .* #000000, #01c84d"),
    "no equals": ("#ff0000 dog", picture(), "^colors: line 1 is '#ff0000 dog'; expected a line such as"),
    "no name": ("\n#ff0000 =", picture(), "^colors: line 2 is '#ff0000 ='"),
    "no colour": ("red = dog", picture(), "^colors: line 1 is 'red = dog'"),
    "twice": ("#ff0000=a\n#FF0000=b", picture(), "^colors: line 2 names #FF0000 again"),
    "only background": ("#000000=background", picture(), "^image: found none"),
    "too many": ("\n".join(f"#0000{i:02x}=a" for i in range(65)), picture(), "^colors: found 65; expected at most 64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image(name):
    text, image, message = BAD_IMAGES[name]
    with pytest.raises(LimelightError, match=message):
        scribble_image.read_image(image, scribble_image.parse_colors(text))


def test_too_many_parts():
    image = np.zeros((200, 200, 3), np.uint8)
    image[::10, ::10] = image[1::10, ::10] = image[::10, 1::10] = image[1::10, 1::10] = (255, 0, 0)
    with pytest.raises(LimelightError, match=f"^image: found 400 separate areas .*at most {MAX_INSTANCES}"):
        scribble_image.read_image(image, {(255, 0, 0): "dot"})
