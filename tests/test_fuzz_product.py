"""Whatever comes in, the nodes of products give a valid result or `LimelightError`."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limelight.guidance.errors import LimelightError
from limelight.guidance.expansion import place

relaxed = settings(deadline=None, derandomize=True, max_examples=120, suppress_health_check=list(HealthCheck))
SIDES = st.sampled_from([9, 16, 5, 2, 1])


NOTHING, NAN, INFINITE = st.none(), float("nan"), float("inf")


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = NOTHING) -> st.SearchStrategy:
    """Fifteen of sixteen from ``good``."""
    return st.integers(0, 15).flatmap(lambda roll: bad if roll == 15 else good)


@st.composite
def tensors(draw, channels: tuple[int, ...], height: int, width: int, most: int = 2):
    """A batch of about the given size, at random or even, now and then of another size or with odd values."""
    if draw(st.integers(0, 15)) == 15:
        height, width = draw(SIDES), draw(SIDES)
    shape = [draw(st.integers(1, most)), height, width, *([draw(st.sampled_from(channels))] if channels else [])]
    if draw(st.integers(0, 31)) == 31:
        shape = shape[draw(st.integers(0, 1)) :][: draw(st.integers(1, 4))]
    value = draw(mostly(st.sampled_from([1.0, 0.9999, 0.6]), st.sampled_from([0.0, 1e-4, -1.0, 7.0, NAN, INFINITE])))
    base = torch.rand(shape) if draw(st.booleans()) else torch.ones(shape)
    if len(shape) > 2 and draw(st.integers(0, 3)) < 3:
        base[:, : height // draw(st.integers(2, 4))] = 0
    return (base * value).to(draw(st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16])))


@pytest.fixture(scope="module")
def nodes(host):
    from limelight.nodes import salient_object_finish, salient_object_measure, salient_object_place

    every = (salient_object_place, salient_object_measure, salient_object_finish)
    return {node.GET_SCHEMA().node_id: node for module in every for node in module.NODES}


def check(pictures: torch.Tensor, *masks: torch.Tensor) -> None:
    """Pictures and masks of one frame, of sound values."""
    assert pictures.ndim == 4 and torch.isfinite(pictures).all()
    for mask in masks:
        assert mask.shape == pictures.shape[:3] and mask.min() >= 0 and mask.max() <= 1


@relaxed
@given(data=st.data(), height=SIDES, width=SIDES, clear=st.booleans())
def test_place_and_composite(nodes, data, height, width, clear):
    image = data.draw(tensors((4,) if clear else (3, 3, 1), height, width))
    mask = data.draw(st.none() if clear else mostly(tensors((), height, width)))
    frame = {
        "width": 64,
        "height": data.draw(st.sampled_from([64, 96])),
        "ratio": data.draw(mostly(st.sampled_from(["width x height", "1:2"]), st.just("1:0"))),
        "fit": data.draw(mostly(st.sampled_from(place.FITS))),
        "anchor": data.draw(mostly(st.sampled_from(place.ANCHORS))),
        "size": data.draw(mostly(st.floats(1, 400), st.floats())),
        "rotation": data.draw(mostly(st.sampled_from([0.0, 90.0]) | st.floats(-180, 180), st.floats())),
        "margin": data.draw(mostly(st.floats(0, 45), st.floats())),
        "shift_x": data.draw(mostly(st.floats(-100, 100), st.floats())),
    }
    with contextlib.suppress(LimelightError), torch.inference_mode():
        placed, kept, placements = nodes["LimelightPlaceSubject"].execute(image, mask, **frame).result
        check(placed, kept)
        assert json.loads(json.dumps(placements)) == placements
        shade = None
        if data.draw(st.booleans()) and all(one.any() for one in kept):
            shade, dark = (
                nodes["LimelightSubjectShadow"].execute(kept, direction=data.draw(st.floats(-180, 180))).result
            )
            check(shade, dark)
        picture = data.draw(tensors((3, 4), *placed.shape[1:3]))
        finish = {
            "resolution": data.draw(mostly(st.sampled_from(["the picture's", "the subject's"]))),
            "clean_rim": data.draw(st.booleans()),
            "match": data.draw(mostly(st.floats(0, 1), st.floats())),
            "harmonise": data.draw(mostly(st.floats(0, 1), st.floats())),
        }
        if finish["resolution"] == "the subject's" and max(placements[0]["canvas"]) / frame["size"] > 100:
            finish["resolution"] = "the picture's"  # a canvas of many thousands of pixels costs seconds
        made, alpha = nodes["LimelightCompositeSubject"].execute(
            picture, image, mask, data.draw(mostly(st.just(placements))), shade, **finish
        ).result  # fmt: skip
        check(made, alpha)


@relaxed
@given(data=st.data(), height=SIDES, width=SIDES)
def test_measures(nodes, data, height, width):
    before, after = data.draw(tensors((), height, width)), data.draw(tensors((), height, width))
    floor = data.draw(st.none() | tensors((), height, width))
    image, original = (data.draw(st.none() | tensors((3, 1), height, width)) for _ in range(2))
    band = data.draw(mostly(st.floats(0, 10), st.floats()))
    with torch.inference_mode():
        with contextlib.suppress(LimelightError):
            passed, growth, report, table, heat = nodes["LimelightObjectExpansion"].execute(
                before, after, band, data.draw(st.floats(0, 9)), floor, image, original
            ).result  # fmt: skip
            found = json.loads(report, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
            assert len(found["images"]) == len(heat) == len(table.splitlines()) - 1
            assert isinstance(passed, bool) and growth >= 0
            check(heat)
        with contextlib.suppress(LimelightError):
            leak, leaks = nodes["LimelightLeakMask"].execute(before, after, band, data.draw(st.floats(0, 50))).result
            assert bool(leak.any()) is leaks and leak.shape[1:] == before.shape[-2:]
        with contextlib.suppress(LimelightError):
            pictures = data.draw(tensors((3,), height, width))
            best, masks, indices, _ = nodes["LimelightSelectByExpansion"].execute(
                pictures, before, after, data.draw(st.integers(1, 3)), floor=floor, band=band
            ).result  # fmt: skip
            assert len(best) == len(masks) == len(indices.split(","))
