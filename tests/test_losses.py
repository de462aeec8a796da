"""The placement loss on maps whose value, gradient and direction are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from limelight.guidance.attention.losses import phrase_map, placement_loss, shape_loss
from limelight.guidance.attention.propagation import grown, with_region
from limelight.guidance.regions.targets import build_targets

WORDS = [1, 2, 3, 4]  # columns of the prompt's words; 0 is the start token, 5.. padding
TOKENS = 8


def target_on(height: int, width: int, points=((0.2, 0.5), (0.8, 0.5)), stroke=0.05):
    shape = {"type": "stroke", "points": [list(p) for p in points], "width": stroke}
    highlight = {"phrase": "red bar", "tokens": [2, 3], "strength": 1.0, "instances": [{"shapes": [shape]}]}
    return build_targets({"version": 1, "text_tokens": WORDS, "highlights": [highlight]}, height, width)


def perfect_logits(target, certainty: float = 20.0) -> torch.Tensor:
    """All attention on the phrase inside, on another word outside."""
    inside = target.attract + target.neutral > target.suppress
    logits = torch.zeros(1, *inside.shape, TOKENS)
    logits[..., [2, 3]] = torch.where(inside, certainty, -certainty)[None, ..., None]
    logits[..., 4] = torch.where(inside, -certainty, certainty)
    return logits


def loss_and_gradient(logits: torch.Tensor, targets) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_(True)
    loss = placement_loss(logits.softmax(-1), targets, WORDS)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


@pytest.mark.parametrize("size", [(16, 16), (8, 8), (12, 20), (33, 17)])
def test_perfect_map_costs_nothing_and_is_left_alone(size):
    targets = target_on(*size)
    loss, gradient = loss_and_gradient(perfect_logits(targets[0]), targets)
    flat_loss, flat_gradient = loss_and_gradient(torch.zeros(1, *size, TOKENS), targets)
    assert loss.item() < 0.25 * flat_loss.item()  # cells that the band's edge crosses belong to two zones
    assert gradient.abs().max() < 0.01 * flat_gradient.abs().max()


def test_flat_map_costs_what_the_formula_says():
    loss, _ = loss_and_gradient(torch.zeros(1, 16, 16, TOKENS), target_on(16, 16))
    assert loss.item() == pytest.approx(-math.log(0.5), abs=1e-3)  # two of four words, inside and outside alike


@pytest.mark.parametrize("width", [0.01, 0.05, 0.2])
def test_thin_strokes_attract_as_much_as_they_repel(width):
    targets = target_on(16, 16, stroke=width)
    _, gradient = loss_and_gradient(torch.zeros(1, 16, 16, TOKENS), targets)
    pull = gradient[0, ..., 2]
    assert -(pull * targets[0].attract).sum() > 0
    assert -pull[pull < 0].sum().item() == pytest.approx(pull[pull > 0].sum().item(), rel=0.05)


def test_a_step_against_the_gradient_moves_attention_onto_the_stroke():
    targets = target_on(16, 24)
    torch.manual_seed(0)
    logits = torch.randn(2, 16, 24, TOKENS)
    losses = []
    for _ in range(20):
        loss, gradient = loss_and_gradient(logits, targets)
        losses.append(loss.sum().item())
        logits = logits - 20 * gradient
    assert losses[-1] < 0.7 * losses[0]
    share = phrase_map(logits.softmax(-1), (2, 3), WORDS)
    inside = (share * targets[0].attract).sum((1, 2)) / targets[0].attract.sum()
    outside = (share * targets[0].suppress).sum((1, 2)) / targets[0].suppress.sum()
    assert (inside > outside + 0.1).all()


def test_samples_and_padding_do_not_mix():
    targets = target_on(16, 16)
    torch.manual_seed(0)
    logits = torch.randn(3, 16, 16, TOKENS)
    together = placement_loss(logits.softmax(-1), targets, WORDS)
    for i in range(3):
        alone = placement_loss(logits[i : i + 1].softmax(-1), targets, WORDS)
        torch.testing.assert_close(together[i : i + 1], alone)
    louder = logits.clone()
    louder[..., [0, 5, 6, 7]] += 5  # the start token and padding take most of the attention, as in real models
    torch.testing.assert_close(placement_loss(louder.softmax(-1), targets, WORDS), together, atol=1e-3, rtol=0)


def test_extreme_maps_stay_finite():
    targets = target_on(8, 8)
    for value in (-1e4, 1e4):
        logits = torch.zeros(1, 8, 8, TOKENS)
        logits[..., [2, 3]] = value
        loss, gradient = loss_and_gradient(logits, targets)
        assert loss.isfinite().all() and gradient.isfinite().all()


def stroke_maps(targets) -> torch.Tensor:
    """Maps (1, h, w, T) whose phrase covers exactly the regions of `targets[0]`."""
    inside = targets[0].instances.sum(0).clamp(max=1)[None, ..., None]
    maps = torch.zeros(1, *inside.shape[1:3], TOKENS)
    maps[..., 2:3] = 0.9 * inside + 1e-3
    maps[..., 4:5] = 0.9 * (1 - inside) + 1e-3
    return maps


def line(degrees: float, length: float = 0.5, centre=(0.5, 0.5)):
    dx, dy = math.cos(math.radians(degrees)) * length / 2, math.sin(math.radians(degrees)) * length / 2
    return ((centre[0] - dx, centre[1] - dy), (centre[0] + dx, centre[1] + dy))


def shape_of(degrees: float, wanted: float, length: float = 0.5) -> float:
    maps = stroke_maps(target_on(32, 32, line(degrees, length), 0.1))
    target = target_on(32, 32, line(wanted), 0.1)[0]
    free = dataclasses.replace(target, suppress=torch.zeros_like(target.suppress))  # look at the whole map
    return shape_loss(maps, [free], WORDS).item()


def test_shape_loss_knows_orientation_and_is_periodic_in_half_turns():
    aligned, askew, across = (shape_of(angle, 7) for angle in (7, 37, 97))
    assert aligned < 0.02 < askew < across
    assert shape_of(173, 7) == pytest.approx(shape_of(21, 7), abs=0.05)  # 14 degrees away on either side
    assert shape_of(173, 7) < askew


def test_shape_loss_knows_extent():
    assert shape_of(0, 0) < shape_of(0, 0, length=0.4) < shape_of(0, 0, length=0.25)


def test_every_object_of_a_phrase_counts_as_much_as_the_others():
    boxes = [[0.05, 0.05, 0.15, 0.15], [0.4, 0.4, 0.95, 0.95]]  # the second is thirty times larger
    instances = [{"shapes": [{"type": "box", "box": box}]} for box in boxes]
    highlight = {"phrase": "red bar", "tokens": [2, 3], "strength": 1.0, "instances": instances}
    targets = build_targets({"version": 1, "text_tokens": WORDS, "highlights": [highlight]}, 20, 20)
    torch.testing.assert_close(targets[0].parts.sum(0), torch.ones(20, 20))
    _, gradient = loss_and_gradient(torch.zeros(1, 20, 20, TOKENS), targets)
    small, large = (-(gradient[0, ..., 2] * region).sum() for region in targets[0].instances)
    assert small.item() == pytest.approx(large.item(), rel=0.05)


def test_an_arc_is_not_satisfied_by_a_straight_object_of_the_same_place_and_extent():
    arc = [(0.5 + 0.3 * math.cos(t / 10 * math.pi), 0.6 - 0.3 * math.sin(t / 10 * math.pi)) for t in range(11)]
    target = target_on(32, 32, arc, 0.06)
    follows, straight = stroke_maps(target), stroke_maps(target_on(32, 32, line(0, 0.6, (0.5, 0.41)), 0.06))
    assert placement_loss(straight, target, WORDS) > 2 * placement_loss(follows, target, WORDS)


def test_regions_grow_into_cells_that_look_at_the_object_and_not_beyond_the_band():
    target = target_on(32, 32, stroke=0.04)[0]
    object_cells = torch.zeros(32, 32, dtype=torch.bool)
    object_cells[14:18, 6:26] = True  # the object that forms is thicker than the stroke
    affinity = torch.full((1024, 1024), 0.1 / 1024)
    flat = object_cells.flatten()
    affinity[flat] += torch.where(flat, 0.9 / flat.sum(), 0.0)
    affinity[~flat] += torch.where(~flat, 0.9 / (~flat).sum(), 0.0)
    region = grown(affinity[None], target)[0]
    free = target.neutral > 0.9
    assert (free & object_cells).any() and (free & ~object_cells).any()
    assert region[free & object_cells].min() > 0.8
    assert region[free & ~object_cells].max() < 0.3
    assert (region >= target.attract - 1e-6).all()
    assert (region <= 1 - target.suppress + 1e-6).all()
    wider = with_region(target, region[None])
    torch.testing.assert_close(wider.attract + wider.neutral + wider.suppress, torch.ones(1, 32, 32))
