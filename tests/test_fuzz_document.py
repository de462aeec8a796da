"""Whatever comes in, the document and its nodes give a valid result or `LimelightError`."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limelight.guidance.errors import LimelightError
from limelight.guidance.regions import document, maskpng, raster
from limelight.guidance.regions.targets import build_targets

# no deadline: a busy machine is no defect; a fixed order of examples: a red run can be run again
relaxed = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just(10**400)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
coordinate = st.floats(-0.5, 1.5)
inside = st.floats(0.01, 0.99)
point = st.tuples(coordinate, coordinate).map(list)
corner = st.tuples(inside, inside).map(list)
pngs = st.builds(
    lambda height, width, value: maskpng.encode(np.full((height, width), value)),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.003, 0.3, 1.0]),
)
shape = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("stroke"), "points": st.builds(lambda first, more: [first, *more], corner, st.lists(point))},
        optional={"width": st.floats(0.001, 1)},
    ),
    st.builds(
        lambda x, y, width, height: {"type": "box", "box": [x, y, x + width, y + height]},
        *(st.floats(-0.2, 0.9), st.floats(-0.2, 0.9), st.floats(0.3, 2), st.floats(0.3, 2)),
    ),
    st.builds(
        lambda x, y, more: {"type": "polygon", "points": [[x, y], [x + 0.3, y], [x, y + 0.3], *more]},
        *(st.floats(-0.1, 0.8), st.floats(-0.1, 0.8), st.lists(point, max_size=3)),
    ),
    st.fixed_dictionaries({"type": st.just("mask"), "png": pngs}),
)
instances = st.lists(st.fixed_dictionaries({"shapes": st.lists(shape, min_size=1, max_size=3)}), min_size=1, max_size=2)
phrases = st.sampled_from(["red circle", "blue bar", "a cat"]) | st.text(min_size=1, max_size=20)
highlight = st.fixed_dictionaries(
    {"phrase": phrases, "instances": instances},
    optional={
        "occurrence": st.integers(1, 3),
        "strength": st.floats(0, 10),
        "color": st.sampled_from([None, "#e6194b", "#00FF00"]),
    },
)
valid = st.fixed_dictionaries({"version": st.just(1), "highlights": st.lists(highlight, min_size=1, max_size=3)})


@st.composite
def spoiled(draw):
    """A valid document in which one place, at any depth, is missing, doubled or replaced by junk."""
    root = holder = {"root": draw(valid)}
    key: str | int = "root"
    for _ in range(draw(st.sampled_from((9, 8, 7, 6, 5, 3, 1)))):
        below = holder[key]
        if not isinstance(below, (dict, list)) or not below:
            break
        holder, key = below, draw(st.sampled_from(list(below) if isinstance(below, dict) else range(len(below))))
    change = draw(st.sampled_from(["junk", "remove", "double"]))
    if change == "junk" or key == "root":
        holder[key] = draw(junk)
    elif change == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[f"{key}2"] = holder[key]
    return root["root"]


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = junk) -> st.SearchStrategy:
    """Good values, and now and then a bad one."""
    return st.sampled_from([good] * 12 + [bad]).flatmap(lambda strategy: strategy)


documents = st.sampled_from([valid, valid, spoiled()]).flatmap(lambda strategy: strategy)
grids = st.tuples(st.integers(1, 12), st.integers(1, 12))


def check_valid(value: object) -> document.Document:
    """The plain form is JSON, round-trips, and can be drawn."""
    parsed = document.parse(value)
    assert document.parse_text(parsed.to_json()) == parsed
    assert document.parse(json.loads(json.dumps(value))) == parsed
    return parsed


@settings(relaxed, max_examples=400)
@given(value=documents)
def test_documents(value):
    with contextlib.suppress(LimelightError):
        check_valid(document.parse(value).to_dict())


@settings(relaxed, max_examples=60)
@given(value=documents, grid=grids, looseness=st.floats(0, 20))
def test_what_is_valid_can_be_drawn(value, grid, looseness):
    try:
        parsed = document.parse(value)
    except LimelightError:
        return
    bound = {
        "version": 1,
        "text_tokens": [1, 2, 3],
        "highlights": [
            {"phrase": h.phrase, "tokens": [i + 1], "strength": h.strength, "instances": h.to_dict()["instances"]}
            for i, h in enumerate(parsed.highlights)
        ],
    }
    for target in build_targets(bound, *grid, looseness):
        zones = torch.stack([target.attract, target.neutral, target.suppress])
        assert torch.isfinite(zones).all() and zones.min() >= 0
        assert torch.allclose(zones.sum(0), torch.ones(grid), atol=1e-5)
        assert target.attract.max() == 1 and (target.instances.amax((1, 2)) > 0).all()


@settings(relaxed, max_examples=100)
@given(value=junk)
def test_junk_documents(value):
    with contextlib.suppress(LimelightError):
        check_valid(value)


@settings(relaxed, max_examples=100)
@given(
    text=st.text(max_size=60)
    | documents.map(repr)
    | junk.map(repr)
    | documents.map(lambda v: json.dumps(v, default=str))
)
def test_texts(text):
    with contextlib.suppress(LimelightError):
        check_valid(document.parse_text(text).to_dict())


@settings(relaxed, max_examples=100)
@given(data=st.binary(max_size=80), cut=st.integers(0, 90), flip=st.integers(0, 89))
def test_damaged_pngs(data, cut, flip):
    import base64

    png = bytearray(base64.b64decode(maskpng.encode(np.eye(5))))
    png[flip % len(png)] ^= 1 + cut
    for candidate in (data, png, png[:cut], png[:16] + data):
        with contextlib.suppress(LimelightError):
            mask = maskpng.decode(base64.b64encode(bytes(candidate)).decode())
            assert mask.ndim == 2 and mask.min() >= 0 and mask.max() <= 1


@st.composite
def tensors(draw, dimensions: int):
    """Small tensors of about the right rank, filled evenly or at random, some with NaN or infinity."""
    rank = draw(mostly(st.just(dimensions), st.integers(0, 5)))
    shape = [draw(st.integers(0 if draw(st.integers(0, 15)) == 0 else 1, 5)) for _ in range(rank)]
    if rank == 4:
        shape[-1] = draw(mostly(st.sampled_from([1, 3, 4]), st.integers(0, 6)))
    value = draw(st.sampled_from([0.0, 1e-4, 0.5, 1.0, -2.0, 7.0, float("nan"), float("inf")]))
    kind = draw(st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16]))
    base = torch.rand(shape) if draw(st.booleans()) else torch.ones(shape)
    return (base * value).to(kind)


widgets = {
    "phrase": mostly(phrases),
    "strength": mostly(st.floats(0, 10)),
    "occurrence": mostly(st.integers(1, 4)),
    "color": mostly(st.sampled_from(["", " ", "#00ff00", "blue"])),
    "highlights": st.none() | documents,
}


@pytest.fixture(scope="module")
def node_classes(host):
    from limelight.nodes import highlight_document, highlight_preview

    return {node.__name__: node for node in (*highlight_document.NODES, *highlight_preview.NODES)}


@settings(relaxed, max_examples=60)
@given(
    inputs=st.fixed_dictionaries(widgets),
    mask=mostly(tensors(3)),
    each=mostly(st.sampled_from(["one object of the phrase", "part of one object"])),
)
def test_from_mask(node_classes, inputs, mask, each):
    node = node_classes["LimelightHighlightFromMask"]
    with contextlib.suppress(LimelightError):
        made = check_valid(node.execute(mask=mask, each_mask_is=each, **inputs)[0])
        count = len(mask) if mask.ndim == 3 and each == "one object of the phrase" else 1
        assert len(made.highlights[-1].instances) == count


@settings(relaxed, max_examples=60)
@given(inputs=st.fixed_dictionaries(widgets), box=st.lists(mostly(st.floats(0, 1)), min_size=4, max_size=4))
def test_from_box(node_classes, inputs, box):
    node = node_classes["LimelightHighlightFromBox"]
    with contextlib.suppress(LimelightError):
        x, y, width, height = box
        made = check_valid(node.execute(x=x, y=y, width=width, height=height, **inputs)[0])
        assert raster.coverage(made.highlights[-1].instances[0].shapes, 4, 4).any()


@settings(relaxed, max_examples=50)
@given(text=mostly(documents.map(lambda value: json.dumps(value, default=str))), highlights=st.none() | documents)
def test_from_json(node_classes, text, highlights):
    with contextlib.suppress(LimelightError):
        check_valid(node_classes["LimelightHighlightFromJSON"].execute(text=text, highlights=highlights)[0])


@settings(relaxed, max_examples=40)
@given(
    highlights=documents,
    image=st.none() | mostly(tensors(4)),
    width=mostly(st.integers(16, 40)),
    height=mostly(st.integers(16, 40)),
    opacity=mostly(st.floats(0, 1)),
)
def test_preview(node_classes, highlights, image, width, height, opacity):
    node = node_classes["LimelightHighlightPreview"]
    with contextlib.suppress(LimelightError):
        picture = node.execute(highlights, width=width, height=height, opacity=opacity, image=image)[0]
        expected = (1, height, width, 3) if image is None else (*image.shape[:3], 3)
        assert picture.shape == expected
