"""The losses and the propagation of Highlight- and Scribble-Guided Diffusion against plain float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from published_maps import TOKENS, filled, random_maps, random_self_maps, scene_of, slow_bilinear

from limelight.guidance.attention.published.base import sharpened
from limelight.guidance.attention.published.highlight_losses import (
    centre_and_angle,
    feature_loss,
    focal_loss,
    moment_loss,
    object_masks,
    self_loss,
)
from limelight.guidance.attention.published.regions import individuals, on_grid, tight_boxes

SIZES = [(16, 16), (12, 20), (7, 9)]
PHRASES = [(2, 3), (5,)]
OWNER = [0, 1, 1]


def drawn(h: int, w: int) -> torch.Tensor:
    """(1, 3, h, w) bool: the strokes of three individuals, overlapping in one cell."""
    return filled(h, w, (1, 1, w // 2, 3), (w // 2 - 1, 2, w // 2 + 1, h - 1), (w - 3, 0, w - 2, h))[None]


def whole(strokes: torch.Tensor) -> torch.Tensor:
    return torch.stack([strokes[0, 0], strokes[0, 1] | strokes[0, 2]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_focal_loss_equals_the_formula(h: int, w: int) -> None:
    a, masks = sharpened(random_maps(h, w)), whole(drawn(h, w))
    got = focal_loss(a, PHRASES, masks)
    for k, one in enumerate(a.numpy()):
        for j, tokens in enumerate(PHRASES):
            loss = 0.0
            for token in tokens:
                for y in range(h):
                    for x in range(w):
                        p = sigmoid(one[y, x, token])
                        loss -= (
                            0.3 * (1 - p) ** 2 * math.log(p) if masks[j, y, x] else 0.7 * p**2 * math.log(1 - p)
                        ) / (h * w)
            assert got[k, j].item() == pytest.approx(loss / 3, abs=1e-12)


def test_focal_loss_keeps_the_published_flaw() -> None:
    stroke = filled(16, 16, (3, 7, 12, 9))
    perfect = torch.zeros(1, 16, 16, TOKENS)
    perfect[..., 2] = stroke.float()
    share = stroke.float().mean().item()
    wanted = (1 - share) * 0.7 * 0.25 * math.log(2) + share * 0.3 * (1 - sigmoid(1)) ** 2 * -math.log(sigmoid(1))
    assert focal_loss(perfect, [(2,)], stroke).item() == pytest.approx(wanted, rel=1e-5)
    assert 5 * wanted > 0.5  # with the weight of Scribble-Guided Diffusion: never below the bound that ends the loop
    pushes = []
    for a in (torch.full_like(perfect, 0.05), perfect):
        a.requires_grad_()
        (gradient,) = torch.autograd.grad(focal_loss(a, [(2,)], stroke).sum(), a)
        inside, outside = gradient[0, ..., 2][stroke[0]], gradient[0, ..., 2][~stroke[0]]
        assert inside.max() < 0 < outside.min()
        pushes.append((outside.sum() / -inside.sum()).item())
    assert pushes[0] > 10 and pushes[1] > 50  # it suppresses far more than it attracts


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_self_loss_equals_the_formula(h: int, w: int) -> None:
    maps, masks = random_self_maps(h, w), whole(drawn(h, w))
    got = self_loss(maps, PHRASES, masks)
    for k, one in enumerate(maps.numpy()):
        for j, tokens in enumerate(PHRASES):
            queries = [(y, x) for y in range(h) for x in range(w) if masks[j, y, x]]
            keys = [(y, x) for y in range(h) for x in range(w) if masks[1 - j, y, x] and not masks[j, y, x]]
            values = []
            for y, x in keys:
                given = sorted((one[q][y * w + x] for q in queries), reverse=True)
                values += given[: min(5, 3)]  # three tokens in all
            assert got[k, j].item() == pytest.approx(sum(values) / len(values) * len(tokens) / 3, abs=1e-12)


def test_self_loss_without_others_is_nothing() -> None:
    maps = random_self_maps(8, 8)
    assert self_loss(maps, [(2,)], filled(8, 8, (1, 1, 4, 4))).tolist() == [[0], [0]]
    hidden = filled(8, 8, (0, 0, 8, 8), (2, 2, 4, 4))
    assert self_loss(maps, PHRASES, hidden)[:, 0].tolist() == [0, 0]


def slow_moments(grid: np.ndarray) -> tuple[float, float, float]:
    total = rows = columns = 0.0
    for y in range(grid.shape[0]):
        for x in range(grid.shape[1]):
            total += grid[y, x]
            rows += y * grid[y, x]
            columns += x * grid[y, x]
    rows, columns = rows / total, columns / total
    mu20 = mu02 = mu11 = 0.0
    for y in range(grid.shape[0]):
        for x in range(grid.shape[1]):
            mu20 += (y - rows) ** 2 * grid[y, x]
            mu02 += (x - columns) ** 2 * grid[y, x]
            mu11 += (y - rows) * (x - columns) * grid[y, x]
    angle = 0.5 * math.atan2(2 * round(mu11, 12), mu20 - mu02)  # rounding errors do not tilt
    return rows, columns, angle + math.pi if angle < 0 else angle


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_moment_loss_equals_the_formula(h: int, w: int) -> None:
    a, strokes = sharpened(random_maps(h, w)), drawn(h, w)
    boxes = tight_boxes(strokes)
    got = moment_loss(a, PHRASES, strokes, boxes, OWNER)
    wanted = np.zeros((2, 2))
    for k, one in enumerate(a.numpy()):
        for i, phrase in enumerate(OWNER):
            aim_y, aim_x, line = slow_moments(strokes[0, i].double().numpy())
            for token in PHRASES[phrase]:
                own = one[..., token] * boxes[0, i].numpy()
                y, x, angle = slow_moments((own - own.min()) / (own.max() - own.min()))
                turn = abs(angle - line)
                turn = min(turn, 2 * math.pi - turn) / math.pi
                loss = math.hypot(y - aim_y, x - aim_x) / min(h, w) + 3 * turn**2
                wanted[k, phrase] += loss / len(PHRASES[phrase]) / len(OWNER)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-9)


def line(degrees: float, side: int = 16) -> torch.Tensor:
    """(1, 1, side, side) bool: a line through the middle, at an angle from the rows' axis."""
    at = torch.arange(side) - (side - 1) / 2
    away = at[:, None] * math.sin(math.radians(degrees)) - at * math.cos(math.radians(degrees))
    return (away.abs() < 1)[None, None]


def as_map(stroke: torch.Tensor) -> torch.Tensor:
    maps = torch.zeros(1, *stroke.shape[-2:], TOKENS)
    maps[0, ..., 2] = stroke[0, 0].float()
    return maps


def test_moment_loss_keeps_the_published_wrap() -> None:
    everywhere = torch.ones(1, 1, 16, 16, dtype=torch.bool)

    def loss(a: float, b: float) -> float:
        return moment_loss(as_map(line(a)), [(2,)], line(b), everywhere, [0]).item()

    assert loss(40, 40) == pytest.approx(0, abs=1e-6)
    assert loss(0, 90) == pytest.approx(3 * 0.25, abs=0.01)
    assert loss(7, 173) == pytest.approx(3 * (166 / 180) ** 2, abs=0.1)  # 14 degrees apart, and it is the worst of all


def test_moment_gradient_moves_and_turns_the_map() -> None:
    everywhere = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    a = 0.3 + 0.1 * torch.rand(1, 16, 16, TOKENS, generator=generator)
    a[..., 2] += 0.3 * line(70)[0, 0]
    for aim in (filled(16, 16, (1, 7, 6, 9))[None], line(30)):
        a = a.detach().requires_grad_()
        loss = moment_loss(a, [(2,)], aim, everywhere, [0])
        (gradient,) = torch.autograd.grad(loss.sum(), a)
        moved = a - 1e-3 * gradient / gradient.abs().max()
        assert moment_loss(moved, [(2,)], aim, everywhere, [0]).item() < loss.item()


@pytest.mark.parametrize("values", [torch.zeros(16, 16), torch.ones(16, 16), torch.eye(16)[5:6].T @ torch.eye(16)[3:4]])
def test_maps_without_orientation_or_range_give_numbers(values: torch.Tensor) -> None:
    a = torch.zeros(1, 16, 16, TOKENS)
    a[0, ..., 2] = values
    a.requires_grad_()
    dot = filled(16, 16, (8, 8, 9, 9))[None]
    everywhere = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    loss = moment_loss(a, [(2,)], dot, everywhere, [0])
    (gradient,) = torch.autograd.grad(loss.sum(), a)
    assert loss.isfinite().all() and gradient.isfinite().all()
    centre, angle = centre_and_angle(torch.zeros(1, 5, 9))
    assert centre.tolist() == [[2, 4]] and angle.isfinite()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (10, 14)])
def test_object_masks_equal_the_formula(height: int, width: int) -> None:
    cross = {("input", i, 0): random_maps(h, w, seed=i) for i, (h, w) in enumerate([(4, 4), (8, 8), (8, 8)])}
    got = object_masks(cross, PHRASES, height, width)
    for k in range(2):
        for j, tokens in enumerate(PHRASES):
            total = np.zeros((height, width))
            for h, share in ((4, (1 / 16) / (1 / 16 + 1 / 64)), (8, (1 / 64) / (1 / 16 + 1 / 64))):
                own = [maps[k].numpy()[..., tokens].mean(-1) for maps in cross.values() if maps.shape[1] == h]
                total += share * slow_bilinear(sum(own) / len(own), height, width)
            wanted = (total - total.min()) / (total.max() - total.min()) > 0.2
            assert np.array_equal(got[k, j].numpy(), wanted)


def slow_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def feature_case(h: int = 8, w: int = 12) -> tuple:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 6, h, w, generator=generator, dtype=torch.float64)
    objects = torch.rand(2, 2, h, w, generator=generator) > 0.5
    strokes = drawn(h, w)
    return features, objects, strokes, tight_boxes(strokes)


def test_feature_loss_equals_the_formula() -> None:
    features, objects, strokes, boxes = feature_case()
    got = feature_loss(features, objects, strokes, boxes, OWNER)
    wanted = np.zeros((2, 2))
    for k in range(2):
        f = features[k].numpy()
        for i, phrase in enumerate(OWNER):
            thing, stroke, box = (t.numpy() for t in (objects[k, phrase], strokes[0, i], boxes[0, i]))
            if not (thing & box & ~stroke).any():
                continue  # nothing beside the stroke
            source, target, ground = (f[:, region].mean(1) for region in (thing & box & ~stroke, stroke, ~thing & ~box))
            pull = 1 - (slow_cosine(source, target) + 1) / 2
            push = 1 - (slow_cosine(source, ground) + 1) / 2
            wanted[k, phrase] += (pull + push) / 2 / len(OWNER)
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-12)


def test_feature_loss_moves_the_stroke_to_the_object_and_the_rest_to_the_background() -> None:
    features, objects, strokes, boxes = feature_case()
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(feature_loss(features, objects, strokes, boxes, OWNER).sum(), features)
    ground = ~objects[0].any(0) & ~boxes[0].any(0) & ~strokes[0].any(0)
    assert ground.any() and not gradient[0][:, ground].any()  # the background itself is left alone
    assert gradient[0][:, strokes[0, 0]].abs().sum() > 0
    none = torch.zeros_like(objects)
    assert feature_loss(features, none, strokes, boxes, OWNER).tolist() == [[0, 0], [0, 0]]  # no object: no NaN


def test_resized_strokes_are_what_bilinear_resizing_touches() -> None:
    strokes = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0)) > 0.9
    for size in ((6, 5), (16, 16), (48, 40)):
        got = on_grid(strokes, *size)[0]
        for one, mask in zip(got, strokes[0], strict=True):
            assert np.array_equal(one.numpy(), slow_bilinear(mask.double().numpy(), *size) > 0)
    thin = filled(64, 64, (0, 3, 64, 4))[None]  # between the samples of a 16x16 grid: lost as published
    assert slow_bilinear(thin[0, 0].double().numpy(), 16, 16).max() == 0
    assert on_grid(thin, 16, 16)[0, 0].nonzero()[:, 0].unique().tolist() == [0]


def test_boxes_have_a_margin_and_stay_on_the_canvas() -> None:
    masks = filled(40, 20, (0, 10, 3, 12), (5, 5, 6, 6))[None]
    masks = torch.cat([masks, torch.zeros(1, 1, 40, 20, dtype=torch.bool)], 1)
    got = tight_boxes(masks)
    assert torch.equal(got[0, :2], filled(40, 20, (0, 8, 4, 14), (4, 3, 7, 8)))
    assert not got[0, 2].any()


def test_individuals_are_the_objects_of_the_document() -> None:
    scene = scene_of(((2,), (0, 0, 0.5, 0.25)), ((5,), (0.5, 0, 1, 1), (0, 0.5, 0.25, 1)), latent=(16, 24))
    strokes, owner = individuals(scene, torch.device("cpu"))
    assert strokes.shape == (1, 3, 16, 24) and strokes.dtype == torch.bool and owner == [0, 1, 1]
    assert strokes.sum((-2, -1)).tolist() == [[48, 192, 48]]


def test_samples_of_a_batch_are_independent() -> None:
    a, strokes = sharpened(random_maps(12, 20, batch=3)), drawn(12, 20)
    boxes = tight_boxes(strokes)
    features, objects, own, around = feature_case()
    for got, single in (
        (focal_loss(a, PHRASES, whole(strokes)), lambda k: focal_loss(a[k], PHRASES, whole(strokes))),
        (moment_loss(a, PHRASES, strokes, boxes, OWNER), lambda k: moment_loss(a[k], PHRASES, strokes, boxes, OWNER)),
        (
            feature_loss(features, objects, own, around, OWNER),
            lambda k: feature_loss(features[k], objects[k], own, around, OWNER),
        ),
    ):
        alone = torch.cat([single(slice(k, k + 1)) for k in range(len(got))])
        torch.testing.assert_close(got, alone, atol=1e-12, rtol=0)
