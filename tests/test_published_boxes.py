"""The published losses with boxes against float64 evaluations of their formulas, written as plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_maps import TOKENS, filled, random_maps, random_self_maps, slow_sharpened

from limelight.guidance.attention.published.attend_and_excite import attend_and_excite, worst
from limelight.guidance.attention.published.base import sharpened
from limelight.guidance.attention.published.boxdiff import boxdiff, boxdiff_inner
from limelight.guidance.attention.published.layout_guidance import box_energy
from limelight.guidance.attention.published.refocusing import cross_refocusing, grounding_refocusing, self_refocusing
from limelight.guidance.attention.published.regions import bounding_box
from limelight.guidance.attention.published.tradiffusion import trace_energy

SIZES = [(16, 16), (12, 20), (7, 9)]
PHRASES = [(2, 3), (5,), (7,)]


def regions(h: int, w: int) -> list[list[tuple[int, int, int, int]]]:
    """Of each phrase; one has two boxes, one at the border, and boxes of different phrases overlap."""
    return [[(1, 1, w // 2, h // 2)], [(w // 2 - 1, h // 3, w - 2, h - 1), (0, h - 3, 2, h)], [(3, 3, 4, 4)]]


def cells(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    x0, y0, x1, y1 = box
    return {(y, x) for y in range(y0, y1) for x in range(x0, x1)}


def everywhere(a: np.ndarray) -> set[tuple[int, int]]:
    return cells((0, 0, a.shape[1], a.shape[0]))


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_sharpened_equals_the_formula(h: int, w: int) -> None:
    maps = random_maps(h, w)
    got = sharpened(maps)
    for k in range(len(maps)):
        np.testing.assert_allclose(got[k].numpy(), slow_sharpened(maps[k].numpy()), atol=1e-12)


def test_sharpening_of_one_token_among_75_and_among_8() -> None:
    for words, wanted in ((75, 0.645), (8, 0.950)):
        maps = torch.full((1, 3, 3, words + 2), 1e-3)
        maps[..., 5] = 0.05
        assert sharpened(maps)[0, 1, 1, 5].item() == pytest.approx(wanted, abs=2e-3)


def slow_inner(a: np.ndarray, box: tuple) -> float:
    top = sorted((a[p] for p in cells(box)), reverse=True)[: max(1, int(0.2 * len(cells(box))))]
    return 1 - sum(top) / len(top)


def slow_boxdiff(a: np.ndarray, box: tuple) -> float:
    x0, y0, x1, y1 = box
    outside = everywhere(a) - cells(box)
    top = sorted((a[p] for p in outside), reverse=True)[: max(1, int(0.2 * len(outside)))]
    loss = slow_inner(a, box) + sum(top) / len(top)
    for size, low, high, profile in ((a.shape[1], x0, x1, a.max(0)), (a.shape[0], y0, y1, a.max(1))):
        near = {c for edge in (low, high) for c in range(edge - 1, edge + 2) if 0 <= c < size}
        loss += sum(abs(profile[c] - (1.0 if low <= c < high else 0.0)) for c in near) / size
    return loss


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_boxdiff_equals_the_formula(h: int, w: int) -> None:
    a = sharpened(random_maps(h, w))
    got, within = boxdiff(a, PHRASES, regions(h, w)), boxdiff_inner(a, PHRASES, regions(h, w))
    assert got.shape == within.shape == (2, 3)
    for k, one in enumerate(a.numpy()):
        for j, (tokens, boxes) in enumerate(zip(PHRASES, regions(h, w), strict=True)):
            pairs = [(one[..., token], box) for token in tokens for box in boxes]
            assert got[k, j].item() == pytest.approx(sum(slow_boxdiff(*pair) for pair in pairs), abs=1e-10)
            assert within[k, j].item() == pytest.approx(max(slow_inner(*pair) for pair in pairs), abs=1e-10)


def test_attend_and_excite_equals_the_formula() -> None:
    a = sharpened(random_maps(16, 16, seed=3) * 0.2 + 0.8 / TOKENS)
    got = attend_and_excite(a, PHRASES)
    for k, one in enumerate(a.numpy()):
        each = [max(1 - one[..., token].max() for token in tokens) for tokens in PHRASES]
        assert got[k].sum().item() == pytest.approx(max(each), abs=1e-12)
        assert got[k].argmax().item() == int(np.argmax(each))
    assert worst(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [[0, 3, 0]]


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_box_energy_equals_the_formula(h: int, w: int) -> None:
    maps = random_maps(h, w, 3)
    got = box_energy(maps, PHRASES, regions(h, w))
    for k, one in enumerate(maps.numpy()):
        for j, (tokens, boxes) in enumerate(zip(PHRASES, regions(h, w), strict=True)):
            own = set().union(*map(cells, boxes))
            each = []
            for head in one:
                for token in tokens:
                    inside = sum(head[y, x, token] for y, x in own)
                    each.append((1 - inside / head[..., token].sum()) ** 2)
            assert got[k, j].item() == pytest.approx(sum(each) / len(each) / 3, abs=1e-12)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_trace_energy_equals_the_formula(h: int, w: int) -> None:
    maps = random_maps(h, w, 2)
    distances = 1 + 40 * torch.rand(3, h, w, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = trace_energy(maps, PHRASES, distances)
    for k, one in enumerate(maps.numpy()):
        for j, tokens in enumerate(PHRASES):
            d, each = distances[j].numpy(), []
            for head in one:
                for token in tokens:
                    near = far = total = 0.0
                    for y in range(h):
                        for x in range(w):
                            near += head[y, x, token] / d[y, x]
                            far += head[y, x, token] * d[y, x]
                            total += head[y, x, token]
                    each.append((1 - near / total) ** 2 + 10 * (1 - 1 / (far / total)) ** 2)
            assert got[k, j].item() == pytest.approx(sum(each) / len(each) / 3, abs=1e-12)


def slow_car(a: np.ndarray, phrases: list, boxes: list, step: int) -> tuple[list[float], float]:
    losses, smallest = [], []
    for i, tokens in enumerate(phrases):
        loss = 0.0
        for token in tokens:
            one = a[..., token]
            for box in boxes[i]:
                m = max(one[p] for p in cells(box))
                smallest.append(m)
                loss += (6 if m < 0.1 else 1 if m < 0.2 or step < 15 else 0) * (1 - m)
            own = set().union(*map(cells, boxes[i]))
            rest = everywhere(one) - own
            for k, others in enumerate(boxes):
                for box in others if k != i else ():
                    m = max((one[p] for p in cells(box) - own), default=0.0)
                    loss += (4 if m > 0.15 else 1 if m > 0.1 or step < 15 else 0) * m
                    rest -= cells(box)
            loss += len(boxes[i]) * max(one[p] for p in rest) / 2
        losses.append(loss / len(phrases))
    return losses, min(smallest)


@pytest.mark.parametrize("step", [0, 14, 15, 30])
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_cross_refocusing_equals_the_formula(h: int, w: int, step: int) -> None:
    a = random_maps(h, w, seed=step, batch=4) * torch.tensor([1.0, 0.3, 0.12, 0.02], dtype=torch.float64).view(
        -1, 1, 1, 1
    )
    got, smallest = cross_refocusing(a, PHRASES, regions(h, w), step)
    for k, one in enumerate(a.numpy()):
        losses, least = slow_car(one, PHRASES, regions(h, w), step)
        np.testing.assert_allclose(got[k].numpy(), losses, atol=1e-12)
        assert smallest[k].item() == pytest.approx(least, abs=1e-15)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_self_refocusing_equals_the_formula(h: int, w: int) -> None:
    maps = random_self_maps(h, w)
    got = self_refocusing(maps, regions(h, w))
    for k, one in enumerate(maps.numpy()):
        for j, boxes in enumerate(regions(h, w)):
            loss = 0.0
            for box in boxes:
                rows = [one[y, x].reshape(h, w) for y, x in cells(box)]
                mean = sum(rows) / len(rows)
                loss += sum(mean[p] for p in everywhere(mean) - cells(box))
            assert got[k, j].item() == pytest.approx(loss / 3, abs=1e-12)


def test_grounding_refocusing_equals_the_formula() -> None:
    h, w, slots, heads = 4, 6, 5, 3
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, heads, h * w + slots, h * w + slots, generator=generator, dtype=torch.float64).softmax(-1)
    boxes = [[(0, 0, 2, 2)], [(3, 1, 6, 4), (0, 3, 1, 4)]]
    got = grounding_refocusing(maps, boxes, h, w)
    for k, one in enumerate(maps.numpy()):
        for j, own in enumerate(boxes):
            loss = 0.0
            for box in own:
                for head in one:
                    mean = sum(head[y * w + x, h * w :] for y, x in cells(box)) / len(cells(box))
                    loss += max([m for s, m in enumerate(mean) if s != j] + [0]) / heads
            assert got[k, j].item() == pytest.approx(loss / 2, abs=1e-12)


def two_phrases(inside: float, box: tuple[int, int, int, int] = (4, 5, 10, 11)) -> torch.Tensor:
    """(1, 16, 16, T): token 2 in the box, token 7 everywhere else; a share `inside` of what is right."""
    maps = torch.full((1, 16, 16, TOKENS), (1 - inside) / TOKENS)
    own = filled(16, 16, box)
    maps[..., 2] += inside * own
    maps[..., 7] += inside * ~own
    return maps


LOSSES = {
    "boxdiff": lambda maps, box: boxdiff(sharpened(maps), [(2,)], [[box]]),
    "car": lambda maps, box: cross_refocusing(sharpened(maps), [(2,)], [[box]], 0)[0],
    "layout": lambda maps, box: box_energy(maps[:, None], [(2,)], [[box]]),
    "trace": lambda maps, box: trace_energy(maps[:, None], [(2,)], 1 + 30.0 * ~filled(16, 16, box)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_maps_cost_little_and_flat_maps_are_pulled_into_the_box(name: str) -> None:
    box = (4, 5, 10, 11)
    flat = two_phrases(0.0).requires_grad_()
    loss = LOSSES[name](flat, box)
    perfect = LOSSES[name](two_phrases(1.0), box).item()
    assert perfect < 0.35 * loss.item()  # smoothing blurs the edges of the sharpened maps
    if name in ("layout", "trace"):
        assert perfect < 1e-6
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    inside = filled(16, 16, (3, 4, 11, 12))[0]  # smoothing reaches one cell out
    assert gradient[0, 5:11, 4:10, 2].sum() < 0  # more attention in the box lowers the loss
    assert gradient[0, ..., 2][~inside].sum() > 0


def test_self_refocusing_of_perfect_and_flat_maps() -> None:
    boxes = [[(1, 1, 5, 4)]]
    flat = torch.full((1, 8, 8, 64), 1 / 64)
    assert self_refocusing(flat, boxes).item() == pytest.approx(1 - 12 / 64)
    perfect = (filled(8, 8, *boxes[0]).flatten() / 12).expand(1, 8, 8, 64)
    assert self_refocusing(perfect, boxes).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("box", [(8, 8, 9, 9), (0, 0, 16, 16), (15, 0, 16, 2)])
def test_tiny_and_full_boxes_give_numbers(box: tuple) -> None:
    for loss in LOSSES.values():
        maps = random_maps(16, 16).float().requires_grad_()
        value = loss(maps, box)
        (gradient,) = torch.autograd.grad(value.sum(), maps)
        assert value.isfinite().all() and gradient.isfinite().all()


def test_boxes_of_strokes() -> None:
    assert bounding_box(filled(16, 16, (5, 6, 9, 10))[0].float()) == (4, 5, 10, 11)
    dot = torch.zeros(8, 12)
    dot[7, 0] = 0.05  # faint, in a corner
    assert bounding_box(dot) == (0, 7, 2, 8)


def test_samples_of_a_batch_are_independent() -> None:
    maps = random_maps(12, 20, batch=3)
    own = regions(12, 20)
    a = sharpened(maps)
    both = random_self_maps(6, 8, batch=3)
    small = regions(6, 8)
    for got, single in (
        (boxdiff(a, PHRASES, own), lambda k: boxdiff(a[k : k + 1], PHRASES, own)),
        (attend_and_excite(a, PHRASES), lambda k: attend_and_excite(a[k : k + 1], PHRASES)),
        (cross_refocusing(a, PHRASES, own, 3)[0], lambda k: cross_refocusing(a[k : k + 1], PHRASES, own, 3)[0]),
        (cross_refocusing(a, PHRASES, own, 3)[1], lambda k: cross_refocusing(a[k : k + 1], PHRASES, own, 3)[1]),
        (self_refocusing(both, small), lambda k: self_refocusing(both[k : k + 1], small)),
    ):
        torch.testing.assert_close(got, torch.cat([single(k) for k in range(3)]), atol=1e-12, rtol=0)
