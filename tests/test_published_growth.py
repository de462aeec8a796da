"""Scribble propagation against plain loops, and what it does to strokes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from published_maps import filled, slow_bilinear

from limelight.guidance.attention.capture import Capture, probabilities
from limelight.guidance.attention.published.growth import affinity, divergence, grow


def attention(h: int, w: int, seed: int = 0, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, h * w, h * w, generator=generator, dtype=torch.float64)).softmax(-1)


def test_captured_affinity_is_the_mean_over_the_blocks_of_a_size() -> None:
    capture = Capture(attend=lambda q, k, v, extra: v)
    capture.affinity = True
    each: dict[tuple, list] = {}
    for number, grid in enumerate([(3, 5), (6, 10), (3, 5), (3, 5), (33, 33)]):
        q, k = torch.randn(2, 2, grid[0] * grid[1], 8, requires_grad=True)
        patch = capture.self_patch(("input", number, 0), None, False)
        for _ in range(2):  # a checkpointed block runs twice
            patch(q, k, k, {"n_heads": 2, "activations_shape": (2, 8, *grid)})
        each.setdefault(grid, []).append(probabilities(q, k, 2))
    assert capture.seen.affinity.keys() == each.keys()
    for grid, maps in each.items():
        torch.testing.assert_close(capture.seen.affinity[grid], torch.stack(maps).mean(0))
        assert not capture.seen.affinity[grid].requires_grad
    assert ("input", 4, 0) not in capture.seen.self_  # with a gradient it would be too large


@pytest.mark.parametrize(("h", "w"), [(8, 8), (8, 12), (7, 9)])
def test_affinity_equals_the_formula(h: int, w: int) -> None:
    maps = {(h, w): attention(h, w), ((h + 1) // 2, (w + 1) // 2): attention((h + 1) // 2, (w + 1) // 2, 1)}
    got = affinity(maps, h, w)
    assert got.shape == (2, math.ceil(h / 2) * math.ceil(w / 2), h * w)
    total = sum(a * b for a, b in maps)
    for k in range(2):
        wanted = 0
        for (a, b), given in maps.items():
            rows = []
            for i in range(math.ceil(h / 2)):
                for j in range(math.ceil(w / 2)):
                    members = [(y, x) for y in (2 * i, 2 * i + 1) for x in (2 * j, 2 * j + 1) if y < h and x < w]
                    queries = [(y * a // h) * b + x * b // w for y, x in members]
                    mean = sum(given[k, q].numpy() for q in queries) / len(queries)
                    fine = slow_bilinear(mean.reshape(a, b), h, w)
                    rows.append((fine / fine.sum()).flatten())
            wanted = wanted + a * b / total * np.stack(rows)
        np.testing.assert_allclose(got[k].numpy(), wanted, atol=1e-12)


def slow_divergence(x: np.ndarray, y: np.ndarray) -> float:
    p, q = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
    return float((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()) / 2


def test_divergence_equals_the_formula_and_its_published_limits() -> None:
    maps = attention(4, 4)
    got = divergence(maps[:, :3], maps)
    for k in range(2):
        for i in range(3):
            for j in range(16):
                wanted = slow_divergence(maps[k, i].numpy(), maps[k, j].numpy())
                assert got[k, i, j].item() == pytest.approx(wanted, abs=1e-15)

    def spread(cells: int) -> float:
        pair = torch.zeros(1, 2, 4096)
        pair[0, 0, :cells] = pair[0, 1, cells : 2 * cells] = 1 / cells
        return divergence(pair, pair)[0, 0, 1].item()

    assert [spread(cells) for cells in (1, 10, 100)] == pytest.approx([4.2e-4, 2.6e-5, 2.5e-6], rel=0.02)


def slow_grow(strokes: np.ndarray, maps: np.ndarray, threshold: float, time: float) -> np.ndarray:
    """(K, h, w), (N, h * w) -> (K, h, w)."""
    count, h, w = strokes.shape
    rows, columns = math.ceil(h / 2), math.ceil(w / 2)
    anchors = [slow_bilinear(one, rows, columns) > 0 for one in strokes.astype(float)]
    wishes: dict[tuple[int, int], tuple[float, int]] = {}
    for k in range(count):
        members = [(i, j) for i in range(rows) for j in range(columns) if anchors[k][i, j]]
        mean = sum(maps[i * columns + j] for i, j in members) / len(members)
        for i, j in members:
            best = None
            for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= y < rows and 0 <= x < columns and not any(one[y, x] for one in anchors):
                    distance = slow_divergence(mean, maps[y * columns + x])
                    best = min(best or (math.inf, None), (distance, (y, x)))
            if best and best[0] < threshold:
                wishes[best[1]] = min(wishes.get(best[1], (math.inf, -1)), (best[0], k))
    kept = sorted(wishes.items(), key=lambda wish: wish[1][0])[: max(int(20 * time), count)]
    new = strokes.copy()
    for k in range(count):
        joined = np.zeros((rows, columns))
        for (i, j), (_, owner) in kept:
            joined[i, j] = owner == k
        new[k] |= slow_bilinear(joined, h, w) > 0
    return new


@pytest.mark.parametrize(("h", "w"), [(16, 16), (12, 20), (11, 13)])
@pytest.mark.parametrize(("threshold", "time"), [(1.0, 0.881), (1.0, 0.2), (3e-4, 0.9), (0.0, 0.9)])
def test_grow_equals_the_loops(h: int, w: int, threshold: float, time: float) -> None:
    strokes = filled(h, w, (2, 2, 6, 3), (7, 4, 9, h - 2), (w - 3, 0, w - 2, 4))
    maps = affinity({(h, w): attention(h, w)}, h, w)
    got = grow(strokes[None], maps, threshold, time)
    for k in range(2):
        wanted = slow_grow(strokes.numpy(), maps[k].numpy(), threshold, time)
        assert np.array_equal(got[k].numpy(), wanted)
    again = grow(got, maps, threshold, time)
    assert torch.equal(again[1], grow(got[1:], maps[1:], threshold, time)[0])  # a batch does what its samples do


def test_strokes_grow_along_attention_and_never_shrink() -> None:
    """Cells of the left half look at the left half: a stroke there grows there."""
    h = w = 16
    side = (torch.arange(h * w) % w < w // 2).double()
    same = side[:, None] * side + (1 - side[:, None]) * (1 - side)
    maps = affinity({(h, w): (same / same.sum(-1, keepdim=True))[None]}, h, w)
    stroke = filled(h, w, (6, 6, 8, 10))[None]
    strokes = stroke
    for _ in range(3):
        grown = grow(strokes, maps, 1e-9, 0.9)
        assert (grown | strokes).equal(grown)
        strokes = grown
    left, right = strokes[0, 0, :, : w // 2], strokes[0, 0, :, w // 2 + 1 :]
    assert left.sum() > 3 * stroke.sum() and not right.any()  # joined cells reach one cell further
