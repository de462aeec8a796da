"""The placement loss on maps whose value, gradient and direction are known."""

from __future__ import annotations

import math

import pytest
import torch

from limelight.guidance.losses import phrase_map, placement_loss
from limelight.guidance.targets import build_targets

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
