"""Place Subject: a cut-out on its canvas, and back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.guidance.errors import LimelightError
from limelight.guidance.expansion import place


@pytest.fixture(scope="module")
def put(host):
    """-> function (image, mask, **settings) -> image, mask, placements."""
    from limelight.nodes.salient_object_place import LimelightPlaceSubject

    def run(*args, **kwargs):
        with torch.inference_mode():
            return LimelightPlaceSubject.execute(*args, **kwargs).result

    return run


def product(height=60, width=40, left=10, top=8, right=30, bottom=52, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a block of it as the product: IMAGE, MASK."""
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    return image, mask


def box(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """left, top, right, bottom of what is at least half opaque."""
    rows, columns = (torch.nonzero((mask >= 0.5).any(axis)).flatten() for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_fit_anchor_and_margin(put):
    image, mask = product()  # 20 x 44 pixels of product
    frame = {"width": 200, "height": 160, "margin": 10.0, "size": 50.0}  # a margin of 16 pixels, a frame of 168 x 128
    for anchor, top in (("floor", 160 - 16 - 64), ("centre", 48), ("hang", 16)):
        _, found, _ = put(image, mask, anchor=anchor, **frame)
        left, high, right, low = box(found[0])
        assert (high, low) == (top, top + 64) and right - left in (29, 30) and left + right in (199, 200, 201)
    _, found, _ = put(image, mask, fit="width", anchor="centre", **frame | {"size": 10.0})
    assert box(found[0])[2] - box(found[0])[0] in (16, 17, 18)
    _, found, _ = put(image, mask, fit="height", anchor="centre", **frame | {"size": 25.0})
    assert box(found[0])[3] - box(found[0])[1] == 32
    _, found, _ = put(image, mask, anchor="centre", shift_x=25.0, shift_y=-20.0, **frame)
    left, high, right, low = box(found[0])
    assert (left + right) / 2 == pytest.approx(150, abs=1) and (high + low) / 2 == pytest.approx(48, abs=1)


def test_original_pixels_are_copied(put):
    image, mask = product()
    picture, found, placements = put(image, mask, width=104, height=80, fit="original pixels", size=100.0)
    (one,) = [place.Placement.from_dict(value) for value in placements]
    assert one.exact and one.scale == 1
    left, top, right, bottom = box(found[0])
    assert torch.equal(picture[0, top:bottom, left:right], image[0, 8:52, 10:30])
    assert found.sum() == mask.sum() and (picture[found == 0] == place.GREY).all()


def test_ratio_gives_the_format_in_steps_of_8(put):
    image, mask = product()
    picture, found, placements = put(image, mask, width=256, height=256, ratio="16:9")
    height, width = picture.shape[1:3]
    assert found.shape[1:] == (height, width) and placements[0]["canvas"] == [width, height]
    assert width % 8 == height % 8 == 0
    assert width / height == pytest.approx(16 / 9, rel=0.03) and width * height == pytest.approx(256**2, rel=0.05)
    assert put(image, mask, width=100, height=203)[0].shape[1:3] == (200, 96)


def test_turning(put):
    image, mask = product()
    frame = {"width": 128, "height": 128, "size": 80.0, "anchor": "centre", "margin": 0.0}
    upright, turned = (box(put(image, mask, rotation=angle, **frame)[1][0]) for angle in (0.0, 90.0))
    assert upright[3] - upright[1] == turned[2] - turned[0] == pytest.approx(0.8 * 128, abs=1)
    # clockwise: what was at the top is on the right
    bright = torch.zeros_like(image)
    bright[:, 8:20] = 1
    picture, found, _ = put(bright, mask, rotation=90.0, **frame)
    left, top, right, bottom = turned
    assert picture[0, 64, right - 6].min() > 0.9 and picture[0, 64, left + 6].max() < 0.1
    found = box(put(image, mask, rotation=30.0, **frame)[1][0])
    assert found[3] - found[1] == pytest.approx(0.8 * 128, abs=2)  # the box of what was turned fits, not the turned box


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    rotation=st.floats(-180, 180),
    size=st.floats(5, 100),
    margin=st.floats(0, 40),
    anchor=st.sampled_from(place.ANCHORS),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_inside_never_leaves_the_frame(rotation, size, margin, anchor, shape):
    alpha = np.zeros((50, 45), np.float32)
    alpha[3 : 3 + shape[0], 4 : 4 + shape[1]] = 1
    one = place.place(alpha, (96, 64), place.INSIDE, anchor, size, rotation, margin)
    assert place.visible_share(alpha, one) == 1
    corners = np.array([[4, 4, 4 + shape[1], 4 + shape[1]], [3, 3 + shape[0], 3, 3 + shape[0]], [1, 1, 1, 1]])
    x, y = np.array(one.matrix).reshape(2, 3) @ corners
    free = margin / 100 * 64 - 1e-6
    assert min(x) >= free and max(x) <= 96 - free and min(y) >= free and max(y) <= 64 - free
    assert one.scale == pytest.approx(math.hypot(one.matrix[0], one.matrix[3]))
    assert place.Placement.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_resampling_keeps_area_and_colour(put):
    """A small, turned product: its mask covers what it should, its colour does not mix with what was cut away."""
    image, mask = product(300, 200, 50, 40, 150, 260)
    image = torch.zeros_like(image)
    image[..., 1] = mask  # green product on black
    picture, found, placements = put(image, mask, width=128, height=128, rotation=20.0, size=60.0)
    one = place.Placement.from_dict(placements[0])
    assert found.sum().item() == pytest.approx(mask.sum().item() * one.scale**2, rel=0.01)
    colour = (picture - place.GREY * (1 - found[..., None])) / found[..., None].clamp(min=0.05)
    assert (colour[found > 0.05][:, 1] > 0.97).all()


def test_a_batch_is_single_runs(put):
    pairs = [product(left=4 + i, right=20 + 4 * i, top=5, bottom=30 + 5 * i, seed=i) for i in range(4)]
    images, masks = (torch.cat(part) for part in zip(*pairs, strict=True))
    options = {"width": 96, "height": 120, "rotation": 12.0}
    together = put(images, masks, **options)
    for i, (image, mask) in enumerate(pairs):
        alone = put(image, mask, **options)
        assert torch.equal(together[0][i : i + 1], alone[0]) and torch.equal(together[1][i : i + 1], alone[1])
        assert together[2][i] == alone[2][0]
    # one photograph with four products, and one mask for four photographs
    shared = put(images[:1], masks, **options)
    assert torch.equal(shared[0][:1], together[0][:1]) and len(shared[0]) == 4
    assert len(put(images, masks[:1], **options)[0]) == 4


def test_masks_that_are_odd(put):
    image, mask = product()
    frame = {"width": 104, "height": 80}
    exact = put(image, mask, **frame)
    for almost in (mask * 0.9999, mask * 0.9999 + 1e-4 * (1 - mask)):
        found = put(image, almost, **frame)
        assert torch.equal(found[0], exact[0]) and torch.equal(found[1], exact[1])
    # white everywhere: the whole picture is the product, a packshot that fills its frame
    picture, found, _ = put(image, torch.ones_like(mask), fit="original pixels", size=100.0, **frame)
    left, top, right, bottom = box(found[0])
    assert (right - left, bottom - top) == (40, 60) and torch.equal(picture[0, top:bottom, left:right], image[0])
    # transparency stands for a mask, and a mask goes before it
    clear = torch.cat([image, mask[..., None]], 3)
    assert torch.equal(put(clear, **frame)[0], exact[0])
    assert torch.equal(put(torch.cat([image, 1 - mask[..., None]], 3), mask, **frame)[0], exact[0])
    # another size of the same format is resized
    larger = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(put(image, larger, **frame)[1], exact[1])
    with pytest.raises(LimelightError, match=r"mask 1 of 1: found an empty one .* Invert Mask"):
        put(image, torch.zeros_like(mask))
    with pytest.raises(LimelightError, match="mask 2 of 2: found an empty one"):
        put(image, torch.cat([mask, mask * 1e-4]))
    with pytest.raises(LimelightError, match="mask: found nothing, and image has no transparency"):
        put(image)
    with pytest.raises(LimelightError, match="mask: found 60 x 40 pixels for image of 40 x 60"):
        put(image, mask.transpose(1, 2))
    with pytest.raises(LimelightError, match="image, mask: found 2 and 3"):
        put(image.expand(2, -1, -1, -1), mask.expand(3, -1, -1))
    with pytest.raises(LimelightError, match="mask: found values that are not numbers"):
        put(image, mask * math.nan)
    with pytest.raises(LimelightError, match="image: found values that are not numbers"):
        put(image * math.inf, mask)


def test_errors_of_settings(put, caplog):
    image, mask = product()
    for name, value in (("width", 20), ("size", 0.0), ("margin", 60.0), ("rotation", math.nan)):
        with pytest.raises(LimelightError, match=f"{name}: found"):
            put(image, mask, **{name: value})
    with pytest.raises(LimelightError, match="anchor: found 'roof'"):
        put(image, mask, anchor="roof")
    with pytest.raises(LimelightError, match="moves the whole subject out of the canvas"):
        put(image, mask, shift_x=100.0)
    put(image, mask, fit="width", size=100.0, width=200, height=100)
    assert "outside the canvas" in caplog.text
    with pytest.raises(LimelightError, match="placement.matrix: found one that makes everything flat"):
        place.Placement.from_dict({"source": [4, 4], "canvas": [4, 4], "matrix": [0, 0, 0, 0, 0, 0]})
    with pytest.raises(LimelightError, match="placement.canvas: found nothing"):
        place.Placement.from_dict({"source": [4, 4]})


def test_scaling_a_placement():
    alpha = np.zeros((100, 80), np.float32)
    alpha[10:90, 20:60] = 1
    one = place.place(alpha, (64, 64))
    double = one.on(128, 128)
    assert double.scale == pytest.approx(2 * one.scale) and double.canvas == (128, 128)
    whole = one.original()
    assert whole.exact and whole.canvas == (round(64 / one.scale),) * 2
    finer = one.of(160, 200)
    assert finer.scale == pytest.approx(one.scale / 2) and finer.original().canvas[0] == pytest.approx(
        128 / one.scale, abs=1
    )
    turned = place.place(alpha, (64, 64), rotation=10.0)
    assert not turned.original().exact and turned.original().scale == pytest.approx(1)
    with pytest.raises(LimelightError, match="at most 16384 on a side"):
        place.place(np.ones((400, 300), np.float32), (512, 512), size=1.0).original()
