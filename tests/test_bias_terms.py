"""The terms that are added to attention logits: against float64 loops over their formulas, and what they must do."""

from __future__ import annotations

import math

import pytest
import torch

from limelight.guidance.attention.bias_terms import FAR, densediffusion, keep_share, logits, shut_out, value_range

N, M, HEADS = 5, 7, 2


def scores(seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(2, HEADS, N, M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def rows(values: torch.Tensor):
    """Every row of scores as a list of floats, with the index of its cell."""
    for batch in range(values.shape[0]):
        for head in range(values.shape[1]):
            for n in range(values.shape[2]):
                yield (batch, head, n), n, [float(value) for value in values[batch, head, n]]


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


def test_logits():
    q, k = torch.randn(2, N, 6, dtype=torch.float64), torch.randn(2, M, 6, dtype=torch.float64)
    found = logits(q, k, HEADS)
    for b in range(2):
        for h in range(HEADS):
            for n in range(N):
                for m in range(M):
                    dot = sum(float(q[b, n, h * 3 + i] * k[b, m, h * 3 + i]) for i in range(3))
                    assert float(found[b, h, n, m]) == pytest.approx(dot / math.sqrt(3), abs=1e-5)


@pytest.mark.parametrize(("weight", "time"), [(1.0, 0.981), (0.3, 0.5), (2.0, 0.1)])
def test_densediffusion_is_its_formula(weight, time):
    s = scores()
    shared = (torch.rand(N, M, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    area = torch.rand(N, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = densediffusion(s, shared, area, weight, time)
    for index, n, row in rows(s):
        for m, value in enumerate(row):
            r, size = float(shared[n, m]), 1 - float(area[n, 0])
            up = r * size * weight * time**5 * (max(row) - value)
            down = (1 - r) * size * weight * time**5 * (value - min(row))
            assert float(found[(*index, m)]) == pytest.approx(up - down, rel=1e-9, abs=1e-12)


def test_value_range_reaches_the_ends_of_the_row():
    s, one, none = scores(), torch.ones(N, M).double(), torch.zeros(N, M).double()
    assert torch.allclose(s + value_range(s, one, none), s.amax(-1, keepdim=True).expand_as(s))
    assert torch.allclose(s + value_range(s, none, one), s.amin(-1, keepdim=True).expand_as(s))
    assert torch.equal(value_range(s, none, none), torch.zeros_like(s))


def test_densediffusion_leaves_regions_that_fill_the_image():
    s = scores()
    assert not densediffusion(s, torch.ones(N, M), torch.ones(N, 1), 1.0, 1.0).any()


GROUPS = torch.tensor([[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0]]).double()


def test_keep_share_is_its_formula():
    s = scores(scale=1.5)
    generator = torch.Generator().manual_seed(3)
    floor = torch.rand(N, 2, generator=generator, dtype=torch.float64) * 0.6
    ceiling = floor + torch.rand(N, 2, generator=generator, dtype=torch.float64) * (1 - floor)
    found = keep_share(s, GROUPS, floor, ceiling)

    def logit(share: float) -> float:
        share = min(max(share, 1e-4), 1 - 1e-4)
        return math.log(share / (1 - share))

    for index, n, row in rows(s):
        for group in range(2):
            p = sum(weight for weight, member in zip(softmax(row), GROUPS[group], strict=True) if member)
            d = max(0.0, logit(float(floor[n, group])) - logit(p)) + min(
                0.0, logit(float(ceiling[n, group])) - logit(p)
            )
            assert float(found[(*index, group)]) == pytest.approx(d, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_keep_share_brings_one_group_to_its_bound_and_keeps_the_rest_in_proportion(share):
    s, one = scores(), GROUPS[:1]
    bound = torch.full((N, 1), share, dtype=torch.float64)
    before, after = s.softmax(-1), (s + keep_share(s, one, bound, bound) @ one).softmax(-1)
    members = one[0].bool()
    assert torch.allclose(after[..., members].sum(-1), bound[:, 0].expand_as(after[..., 0]))
    for group in (members, ~members):
        old, new = before[..., group], after[..., group]
        assert torch.allclose(new / new.sum(-1, keepdim=True), old / old.sum(-1, keepdim=True))


def test_keep_share_leaves_what_is_within_its_bounds():
    s = scores()
    p = s.softmax(-1) @ GROUPS.T
    low, high = p.amin((0, 1)) * 0.9, (p.amax((0, 1)) * 1.1).clamp(max=1)
    assert not keep_share(s, GROUPS, low, high).any()
    assert not keep_share(s, GROUPS, torch.zeros(N, 2).double(), torch.ones(N, 2).double()).any()


def test_keep_share_is_finite_at_the_ends():
    s = scores(scale=200.0)  # shares of exactly 0 and 1
    nothing, all_ = torch.zeros(N, 2).double(), torch.ones(N, 2).double()
    for floor, ceiling in ((all_, all_), (nothing, nothing)):
        assert keep_share(s, GROUPS, floor, ceiling).isfinite().all()


def test_shut_out():
    hidden = torch.tensor([0.0, 0.5, 1.0])
    assert shut_out(hidden).tolist() == pytest.approx([0.0, math.log(0.5), FAR])
    assert shut_out(hidden, 0.5).tolist() == pytest.approx([0.0, math.log(0.75), math.log(0.5)])
    assert shut_out(hidden, 2.0).tolist() == pytest.approx([0.0, FAR, FAR])
    assert not shut_out(hidden, 0.0).any()
    s = torch.tensor([5.0, 5.0, 9.0]) + shut_out(hidden)
    assert s.softmax(-1).tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert torch.isfinite(shut_out(hidden).half()).all()
