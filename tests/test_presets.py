"""The published losses against float64 evaluations of their formulas, written as plain loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from limelight.guidance import presets

TOKENS = 12


def random_maps(h: int, w: int, seed: int = 0, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, h, w, TOKENS, generator=generator, dtype=torch.float64)).softmax(-1)


def target(tokens: tuple[int, ...], *boxes: tuple[int, int, int, int], h: int = 16, w: int = 16) -> SimpleNamespace:
    instances = torch.zeros(len(boxes), h, w)
    for instance, (x0, y0, x1, y1) in zip(instances, boxes, strict=True):
        instance[y0:y1, x0:x1] = 1
    return SimpleNamespace(tokens=tokens, instances=instances)


def slow_sharpened(maps: np.ndarray) -> np.ndarray:
    h, w, tokens = maps.shape
    a = np.zeros_like(maps)
    for y in range(h):
        for x in range(w):
            e = [math.exp(100 * maps[y, x, t]) for t in range(1, tokens - 1)]
            for t in range(1, tokens - 1):
                a[y, x, t] = e[t - 1] / sum(e)
    kernel = {-1: math.exp(-1), 0: 1.0, 1: math.exp(-1)}
    norm = sum(kernel.values()) ** 2

    def mirror(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    out = np.zeros_like(a)
    for y in range(h):
        for x in range(w):
            for dy in kernel:
                for dx in kernel:
                    out[y, x] += kernel[dy] * kernel[dx] / norm * a[mirror(y + dy, h), mirror(x + dx, w)]
    return out


def slow_boxdiff(a: np.ndarray, box: tuple[int, int, int, int]) -> float:
    h, w = a.shape
    x0, y0, x1, y1 = box
    inside, outside = [], []
    for y in range(h):
        for x in range(w):
            (inside if y0 <= y < y1 and x0 <= x < x1 else outside).append(a[y, x])
    top_in = sorted(inside)[::-1][: max(1, int(0.2 * len(inside)))]
    top_out = sorted(outside)[::-1][: max(1, int(0.2 * len(outside)))] if outside else [0.0]
    loss = 1 - sum(top_in) / len(top_in) + sum(top_out) / len(top_out)
    for size, low, high, profile in ((w, x0, x1, a.max(0)), (h, y0, y1, a.max(1))):
        near = {c for edge in (low, high) for c in range(edge - 1, edge + 2) if 0 <= c < size}
        loss += sum(abs(profile[c] - (1.0 if low <= c < high else 0.0)) for c in near) / size
    return loss


@pytest.mark.parametrize(("h", "w"), [(16, 16), (12, 20), (8, 8)])
def test_sharpened_equals_the_formula(h: int, w: int) -> None:
    maps = random_maps(h, w)
    got = presets.sharpened(maps)
    for k in range(len(maps)):
        np.testing.assert_allclose(got[k].numpy(), slow_sharpened(maps[k].numpy()), atol=1e-12)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (12, 20)])
def test_boxdiff_equals_the_formula(h: int, w: int) -> None:
    maps = random_maps(h, w)
    targets = [
        target((2, 3), (2, 3, 7, 8), h=h, w=w),
        target((5,), (8, 5, 12, 6), (0, 0, 3, 2), h=h, w=w),  # two objects, one at the border
    ]
    got = presets.boxdiff(maps, targets, list(range(1, 8)))
    assert got.shape == (2, 2)
    for k in range(len(maps)):
        a = slow_sharpened(maps[k].numpy())
        for j, one in enumerate(targets):
            boxes = [presets.bounding_box(instance) for instance in one.instances]
            wanted = sum(slow_boxdiff(a[..., token], box) for token in one.tokens for box in boxes)
            assert got[k, j].item() == pytest.approx(wanted, abs=1e-10)


def test_attend_and_excite_equals_the_formula() -> None:
    maps = random_maps(16, 16, seed=3) * 0.2 + 0.8 / TOKENS
    targets = [target((2, 3), (2, 3, 7, 8)), target((5,), (8, 5, 12, 6))]
    got = presets.attend_and_excite(maps, targets, list(range(1, 8)))
    for k in range(len(maps)):
        a = slow_sharpened(maps[k].numpy())
        each = [max(1 - a[..., token].max() for token in one.tokens) for one in targets]
        assert got[k].sum().item() == pytest.approx(max(each), abs=1e-12)
        assert got[k].argmax().item() == int(np.argmax(each))


def test_boxdiff_is_low_on_a_perfect_map_and_its_gradient_moves_attention_into_the_box() -> None:
    box = (4, 5, 10, 11)
    one = target((2,), (5, 6, 9, 10))
    assert presets.bounding_box(one.instances[0]) == box
    perfect = torch.full((1, 16, 16, TOKENS), 0.01)
    perfect[..., 7] = 0.5  # the background's token
    perfect[:, 5:11, 4:10, 2], perfect[:, 5:11, 4:10, 7] = 0.5, 0.01
    flat = torch.full((1, 16, 16, TOKENS), 1 / TOKENS).requires_grad_()
    loss = presets.boxdiff(flat, [one], [2])
    assert presets.boxdiff(perfect, [one], [2]).item() < 0.25 * loss.item()
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    assert gradient[0, 5:11, 4:10, 2].sum() < 0  # more attention in the box lowers the loss
    outside = gradient[0, ..., 2].clone()
    outside[4:12, 3:11] = 0  # smoothing reaches one cell out
    assert outside.sum() > 0


def test_tiny_and_full_boxes_give_numbers() -> None:
    maps = random_maps(16, 16).requires_grad_()
    dot = SimpleNamespace(tokens=(2,), instances=torch.zeros(1, 16, 16))
    dot.instances[0, 8, 8] = 0.05  # a faint dot still has a box
    for one in (dot, target((2,), (0, 0, 16, 16))):
        loss = presets.boxdiff(maps, [one], [2])
        (gradient,) = torch.autograd.grad(loss.sum(), maps)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_step_size_falls_from_20() -> None:
    assert presets.step_size(0) == 20
    assert presets.step_size(1) == pytest.approx(20 * math.sqrt(0.5))
