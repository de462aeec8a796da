"""Scribble files: ScribbleSup XML, coloured images, skeletons, the letterbox, the prompt and the node."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from limelight.guidance import scribble_image, scribbles, voc
from limelight.guidance.document import MAX_INSTANCES, Box, Document, Highlight, Instance, Polygon, Raster, Stroke
from limelight.guidance.errors import LimelightError
from limelight.guidance.letterbox import Letterbox
from limelight.guidance.maskpng import encode
from limelight.guidance.raster import coverage
from limelight.guidance.scribbles import compose, plural, read_xml, target_size
from limelight.guidance.skeleton import lines, skeleton

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def xml(*polygons: tuple[str, list[tuple]], size=("100", "50")) -> str:
    """A ScribbleSup file, written as the data set writes it."""
    text = f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    for tag, points in polygons:
        inner = "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for x, y in points)
        text += f"\n<polygon><tag>{tag}</tag>{inner}</polygon>"
    return text + "\n</annotation>"


def strokes(read: scribbles.Scribbles, name: str) -> list[tuple]:
    return [instance.shapes[0].points for instance in read.objects[name]]


def test_xml_to_strokes():
    read = read_xml(xml(("dog", [(0, 0), (49, 24), (99, 49)]), ("background", [(5, 5)]), ("dog", [(10, 10)])), 5)
    assert read.size == (100, 50) and list(read.objects) == ["dog"]
    assert strokes(read, "dog") == [((0.005, 0.01), (0.495, 0.49), (0.995, 0.99)), ((0.105, 0.21),)]
    assert all(instance.shapes[0].width == 5 / 50 for instance in read.objects["dog"])


def test_points_outside_are_moved_to_the_border_and_repeats_dropped():
    read = read_xml(xml(("cat", [(-30, 10), (-3, 10), (50, 10), (50, 10), (120, 99), (50, 10)])))
    assert strokes(read, "cat") == [((0.005, 0.21), (0.505, 0.21), (0.995, 0.99), (0.505, 0.21))]


def test_lines_wholly_outside_are_left_out():
    read = read_xml(xml(("cat", [(-30, -10), (-3, -10)]), ("dog", [(-30, 25), (130, 25)]), ("cow", [])))
    assert list(read.objects) == ["dog"]


def test_the_size_of_the_picture_counts_more_than_that_of_the_file():
    assert strokes(read_xml(xml(("cat", [(9, 9)]), size=("0", "x")), size=(20, 20)), "cat") == [((0.475, 0.475),)]


BAD_XML = {
    "nothing": ("", "^xml: found ''; expected the text of a ScribbleSup"),
    "no text": (None, "^xml: found nothing"),
    "not XML": ("dog.xml", "^xml: not readable as XML"),
    "cut off": (xml(("dog", [(1, 1)]))[:-5], "^xml: not readable as XML"),
    "another kind": ("<svg/>", "^xml: found a document of the kind 'svg'; expected ScribbleSup's <annotation>"),
    "no size": ("<annotation/>", "^xml: size.width: found ''; expected a whole number from 1"),
    "odd size": (xml(size=("1e3", "5")), "^xml: size.width: found '1e3'"),
    "huge size": (xml(size=("9" * 5000, "5")), "^xml: size.width: found '999"),
    "no tag": (xml((" ", [(1, 1)])), r"^xml: polygon\[0\] has no <tag>"),
    "no number": (xml(("a", [(1, 1)]), ("b", [(1, 1), (2, "two")])), r"^xml: polygon\[1\]\.point\[1\]\.Y: found 'two'"),
    "not finite": (xml(("a", [("nan", 1)])), r"^xml: polygon\[0\]\.point\[0\]\.X: found nan"),
    "DTD": ('<!DOCTYPE a [<!ENTITY b "c">]>' + xml(), r"^xml: found a DTD"),
    "deep": ("<annotation>" + "<a>" * 100_000, "^xml: elements are nested deeper than 8"),
    "long": (xml() + " " * scribbles.MAX_TEXT, "^xml: found .* characters; expected at most"),
    "surrogates": ("<annotation>\ud800</annotation>", "^xml: not readable as XML"),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_bad_xml(name):
    text, message = BAD_XML[name]
    with pytest.raises(LimelightError, match=message):
        read_xml(text)


def test_prompt_of_the_published_template():
    read = read_xml(xml(("dog", [(9, 9)]), ("person", [(20, 20)]), ("person", [(50, 20)]), ("aeroplane", [(30, 30)])))
    document, prompt = compose(read)
    assert prompt == "a photography of a dog, people and an aeroplane"
    assert [h.phrase for h in document.highlights] == ["dog", "people", "aeroplane"]
    assert [len(h.instances) for h in document.highlights] == [1, 2, 1]
    document, prompt = compose(read, None, "{objects}!", {"person": "woman", "dog": "old dog"}, plurals=False)
    assert prompt == "an old dog, a woman and an aeroplane!"
    assert [h.phrase for h in document.highlights] == ["old dog", "woman", "aeroplane"]


def test_plurals_of_every_voc_class():
    said = {name: plural(voc.words(name)) for name in voc.CLASSES[1:]}
    irregular = {"bus": "buses", "person": "people", "sheep": "sheep", "diningtable": "dining tables"}
    irregular |= {"pottedplant": "potted plants", "tvmonitor": "tv monitors"}
    assert said == {name: irregular.get(name, name + "s") for name in said}
    assert [plural(word) for word in ("baby", "toy", "glass", "dogs", "red people")] == [
        "babies", "toys", "glasses", "dogs", "red people",
    ]  # fmt: skip


@pytest.mark.parametrize("template", ["a photo", "{objects} and {objects}", None])
def test_bad_template(template):
    with pytest.raises(LimelightError, match=r"^template: found .*expected a text with \{objects\} once"):
        compose(read_xml(xml(("dog", [(9, 9)]))), None, template)


def test_nothing_to_say():
    with pytest.raises(LimelightError, match="^scribbles: found none of an object"):
        compose(read_xml(xml(("background", [(9, 9)]))))


@pytest.mark.parametrize("source", [(200, 100), (100, 200), (97, 31), (64, 64), (500, 375)])
@pytest.mark.parametrize("target", [(64, 64), (128, 64), (33, 80)])
def test_strokes_and_labels_stay_together(source, target):
    """A shape drawn in the picture and then letterboxed is where the letterboxed shape is drawn."""
    box = Letterbox(source, target)
    shapes = [
        Stroke(((0.3, 0.3), (0.7, 0.6)), 0.2),
        Box((0.2, 0.5, 0.6, 0.9)),
        Polygon(((0.1, 0.1), (0.9, 0.2), (0.5, 0.95))),
    ]
    for shape in shapes:
        labels = (coverage([shape], source[1] * 4, source[0] * 4) >= 0.5).astype(np.uint8)
        through_labels = box.labels(labels, 0)
        through_shape = coverage([box.shape(shape)], target[1], target[0]) >= 0.5
        assert (through_labels != through_shape).mean() < 0.02, shape
        assert through_shape.sum() > 0.02 * box.inside().sum()
    mask = coverage([shapes[0]], source[1], source[0])
    through_mask = coverage([box.shape(Raster(encode(mask)))], target[1], target[0])
    assert np.abs(through_mask - coverage([box.shape(shapes[0])], target[1], target[0])).mean() < 0.02


def test_letterbox_of_labels():
    labels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    assert np.array_equal(Letterbox((4, 2), (4, 2)).labels(labels, 255), labels)
    tall = Letterbox((4, 2), (4, 4)).labels(labels, 255)
    assert np.array_equal(tall, [[255] * 4, [0, 1, 2, 3], [4, 5, 6, 7], [255] * 4])
    twice = Letterbox((4, 2), (8, 8)).labels(labels, 255)
    assert np.array_equal(twice[2:6], labels.repeat(2, 0).repeat(2, 1)) and (twice[[0, 1, 6, 7]] == 255).all()
    assert np.array_equal(Letterbox((4, 2), (8, 8)).inside(), twice != 255)


def test_a_thin_mask_survives_the_letterbox():
    mask = np.zeros((1000, 500))
    mask[:, 250] = 1
    document = Document((Highlight("line", (Instance((Raster(encode(mask)),)),)),))
    (highlight,) = Letterbox((500, 1000), (64, 64)).document(document).highlights
    cells = coverage(highlight.instances[0].shapes, 64, 64)
    assert (cells.max(1) > 0).all(), "every row still has a part of the line"


def test_target_size():
    assert target_size((500, 375), 512, 512) == (512, 512)
    assert target_size((500, 375), 0, 0) == (496, 376)
    assert target_size((500, 250), 512, 0) == (512, 256)
    assert target_size((500, 250), 0, 512) == (1024, 512)
    assert target_size((5000, 2), 0, 0) == (5000, 16)


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


def test_any_text_is_read_or_refused():
    @hypothesis.settings(max_examples=300, deadline=None)
    @hypothesis.given(
        st.text(max_size=40),
        st.lists(st.tuples(st.text("ab ", max_size=2), st.lists(st.tuples(st.floats(), st.floats()), max_size=4))),
        st.tuples(st.integers(0, 10**6), st.integers(-5, 10**6)),
    )
    def run(noise, polygons, size):
        for text in (noise, xml(*polygons, size=size), xml(*polygons, size=size).replace("<X>", noise)):
            try:
                compose(read_xml(text), (64, 64))
            except LimelightError as error:
                assert str(error).startswith(("xml: ", "scribbles: "))

    run()


@pytest.fixture(scope="module")
def node(host):
    from limelight.nodes.highlight_scribbles import LimelightHighlightFromScribbles

    return LimelightHighlightFromScribbles


def test_node_reads_either(node):
    document, prompt, width, height = node.execute(xml(("dog", [(9, 9), (50, 25)])), width=0, height=256).args
    assert (prompt, width, height) == ("a photography of a dog", 512, 256)
    assert document["highlights"][0]["phrase"] == "dog"
    image = torch.from_numpy(picture(a=(255, 0, 0), two_b=(0, 0, 255)))[None] / 255
    colors = "#ff0000 = red circle\n#0000ff = bar"
    document, prompt, width, height = node.execute("", image=image, colors=colors, template="{objects}").args
    assert (prompt, width, height) == ("a red circle and bars", 512, 512)
    points = document["highlights"][0]["instances"][0]["shapes"][0]["points"]
    assert all(0.125 < y < 0.3 for _, y in points), "a picture of 4:3 lies in the middle of the square"
    document, prompt, *_ = node.execute(
        "", image=image, colors=colors, plurals=False, drawn="the objects themselves"
    ).args
    assert [highlight["phrase"] for highlight in document["highlights"]] == ["red circle", "bar"]
    assert document["highlights"][1]["instances"][0]["shapes"][0]["type"] == "mask"


def test_node_refuses(node):
    image = torch.zeros(2, 8, 8, 3)
    for changes, message in (
        ({}, "^xml, image: found neither; expected one of them"),
        ({"xml": xml(), "image": image}, "^xml, image: found both"),
        ({"image": image}, "^image: found a batch of 2"),
        ({"image": image[:1], "drawn": "dots"}, "^drawn: found 'dots'"),
        ({"image": image[:1], "tolerance": 300}, "^tolerance: found 300"),
        ({"xml": xml(("a", [(1, 1)])), "width": -1}, "^width: found -1"),
        ({"xml": xml(("a", [(1, 1)])), "line_width": 0}, "^line width: found 0"),
    ):
        with pytest.raises(LimelightError, match=message):
            node.execute(**{"xml": ""} | changes)
