"""Scribble files: ScribbleSup XML, the letterbox, the prompt and the node."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import scribbles, voc
from limelight.guidance.regions.document import Box, Document, Highlight, Instance, Polygon, Raster, Stroke
from limelight.guidance.regions.letterbox import Letterbox
from limelight.guidance.regions.maskpng import encode
from limelight.guidance.regions.raster import coverage
from limelight.guidance.regions.scribbles import compose, plural, read_xml, target_size

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
    image = torch.zeros(1, 90, 120, 3)
    image[:, 10:16, 10:60, 0] = image[:, 30:36, 10:60, 2] = image[:, 30:36, 80:110, 2] = 1
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
