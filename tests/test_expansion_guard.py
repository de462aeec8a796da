"""The expansion guard: its formulas, and in the real host what it does to attention, batches, sizes, other nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guided_runs import BAR, CIRCLE, EVERYWHERE, conditioning, conditioning_for, moved, noise, sample, untouched

from limelight.guidance.attention import bias
from limelight.guidance.errors import LimelightError
from limelight.guidance.expansion.guard import attach, fading, looked_away, subject_words, zones


def subject(height: int = 64, width: int = 64, left: float = 0.25) -> np.ndarray:
    """A mask with a box: the middle half of the rows, a quarter of the columns."""
    mask = np.zeros((height, width), np.float32)
    mask[height // 4 : 3 * height // 4, round(left * width) : round((left + 0.25) * width)] = 1
    return mask


MASKS = [subject()]


# Formulas -------------------------------------------------------------------------------------------------------------


def test_the_band_begins_at_the_subject_and_ends_at_its_width():
    kept, band = zones(subject(64, 128), 0.25)
    assert np.array_equal(kept, subject(64, 128))
    row = band[32]
    assert (row[32:64] == 0).all()
    assert row[64] == row[31] == pytest.approx(1 - 0.5 / 16)  # the middle of the first pixel; a quarter of 64 is 16
    assert row[64 + 8] == pytest.approx(1 - 8.5 / 16)
    assert (row[64 + 16 :] == 0).all() and (row[: 32 - 16] == 0).all()


def test_soft_masks_count_from_a_half():
    soft = subject() * 0.9998 + 0.0001
    assert np.array_equal(zones(soft, 0.2), zones(subject(), 0.2))


def test_the_subjects_words_are_those_it_listens_to_more_than_the_background():
    probabilities = torch.tensor([[[0.5, 0.4, 0.1], [0.7, 0.1, 0.2]]])
    inside, outside = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.allclose(subject_words(probabilities, inside, outside), torch.tensor([[0.0, 0.75, 0.0]]))


def test_weight_is_taken_before_the_softmax_makes_up_for_it():
    scores = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    band, keys = torch.linspace(0, 1, 5)[:, None], torch.tensor([[1.0, 0, 0, 0.5, 0, 0, 0]])
    weights = scores.exp() * (1 - 0.8 * band * keys)
    expected = weights / weights.sum(-1, keepdim=True)
    assert torch.allclose((scores + looked_away(band, keys, 0.8)).softmax(-1), expected, atol=1e-6)
    assert torch.equal(looked_away(band, keys, 0.0), torch.zeros(5, 7))


def test_fading():
    assert [fading(1 - percent, 0.6) for percent in (0.0, 0.3, 0.45, 0.6, 0.9)] == pytest.approx([1, 1, 0.5, 0, 0])


# Off is off -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 0.0},
        {"cross_strength": 0.0, "self_strength": 0.0},
        {"start_percent": 0.95, "end_percent": 0.95},
    ],
    ids=["strength 0", "both strengths 0", "window outside"],
)
def test_off_is_bit_identical(tiny_sd15, settings):
    positive = conditioning(CIRCLE)
    guarded = attach(tiny_sd15, MASKS, **settings)
    assert torch.equal(sample(tiny_sd15, positive), sample(guarded, positive))


def test_other_users_of_the_model_see_nothing(tiny_sd15):
    positive = conditioning()
    plain, before = sample(tiny_sd15, positive), untouched(tiny_sd15)
    guarded = attach(tiny_sd15, MASKS, **EVERYWHERE)
    first = sample(guarded, positive)
    assert moved(plain, first)
    assert untouched(tiny_sd15) == before
    assert torch.equal(plain, sample(tiny_sd15, positive))
    again = attach(attach(tiny_sd15, [subject(left=0.6)], strength=0.5), MASKS, **EVERYWHERE)
    assert torch.equal(first, sample(again, positive))  # a second guard replaces the first


# What it does ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross", "self"])
@pytest.mark.parametrize("highlights", [[], [CIRCLE]], ids=["words found", "words given"])
def test_it_acts_through_each_attention(tiny_sd15, kind, highlights):
    strengths = {"cross_strength": float(kind == "cross"), "self_strength": float(kind == "self")}
    positive = conditioning(*highlights)
    guarded = attach(tiny_sd15, MASKS, **EVERYWHERE, **strengths)
    assert moved(sample(tiny_sd15, positive), sample(guarded, positive))


def test_strength_grows(tiny_sd15):
    positive = conditioning(CIRCLE)
    plain = sample(tiny_sd15, positive)
    changes = [
        (sample(attach(tiny_sd15, MASKS, strength, self_strength=1.0, **EVERYWHERE), positive) - plain).abs().mean()
        for strength in (0.2, 0.6, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("kind", ["cross", "self"])
def test_only_cells_of_the_band_look_away_and_only_from_the_subject(tiny_sd15, calls, kind):
    strengths = {"cross_strength": float(kind == "cross"), "self_strength": float(kind == "self")}
    sample(attach(tiny_sd15, MASKS, 0.9, width=0.25, **EVERYWHERE, **strengths), conditioning(CIRCLE, BAR), steps=1)
    chosen = [call for call in calls if call[0].shape[1] == 256]
    assert chosen
    keys = [2, 3, 5, 6] if kind == "cross" else [16 * y + x for y in range(4, 12) for x in range(4, 8)]
    for q, k, heads, mask in chosen:
        before, after = ((bias.bias_terms.logits(q, k, heads) + extra).softmax(-1) for extra in (0, mask))
        odds = [share / (1 - share) for share in (each[..., keys].sum(-1)[0] for each in (before, after))]
        ratio = (odds[1] / odds[0]).unflatten(1, (16, 16))
        assert torch.allclose(ratio[:, 8, 4:8], torch.ones(()), rtol=1e-3)  # the subject itself
        assert torch.allclose(ratio[:, 8, 12:], torch.ones(()), rtol=1e-3)  # beyond the band
        assert torch.allclose(ratio[:, 8, 8], torch.tensor(0.1), rtol=1e-2)  # next to the subject
        assert (ratio[:, 8, 8] < ratio[:, 8, 10]).all() and (ratio[:, 8, 10] < ratio[:, 8, 11]).all()


def test_phrase_names_the_subject_among_highlights(tiny_sd15):
    positive = conditioning(CIRCLE, BAR)
    settings = {**EVERYWHERE, "self_strength": 0.0}
    all_of_them, circle, bar = (
        sample(attach(tiny_sd15, MASKS, phrase=phrase, **settings), positive)
        for phrase in ("", "red circle", "blue bar")
    )
    assert moved(all_of_them, circle) and moved(circle, bar)
    with pytest.raises(LimelightError, match="phrase.*'dog'.*'red circle', 'blue bar'"):
        sample(attach(tiny_sd15, MASKS, phrase="dog"), positive)


def test_with_the_host_s_inpainting_conditioning(make_sd15):
    model = make_sd15(in_channels=9)
    hole = 1 - torch.from_numpy(subject())[None]
    given = {"concat_latent_image": noise(1, 4, 16, 16, seed=3), "concat_mask": hole}
    positive = conditioning(CIRCLE, **given)
    plain = sample(model, positive, mask=hole)
    assert torch.equal(plain, sample(attach(model, MASKS, 0.0), positive, mask=hole))
    assert moved(plain, sample(attach(model, MASKS, **EVERYWHERE), positive, mask=hole))


# Batches, sizes, prompts, other nodes -------------------------------------------------------------------------------


@pytest.mark.parametrize("highlights", [[], [CIRCLE]], ids=["words found", "words given"])
def test_a_batch_of_masks_equals_single_runs(tiny_sd15, highlights):
    masks = [subject(left=left) for left in (0.0, 0.3, 0.6)]
    positive, x = conditioning(*highlights), noise(3, 4, 16, 16)
    together = sample(attach(tiny_sd15, masks, **EVERYWHERE), positive, x)
    for one, mask, alone in zip(together, masks, x, strict=True):
        single = sample(attach(tiny_sd15, [mask], **EVERYWHERE), positive, alone[None])[0]
        assert torch.allclose(one, single, atol=2e-3 * single.abs().max().item())
    shared = sample(attach(tiny_sd15, masks[:1], **EVERYWHERE), positive, x)
    assert torch.allclose(shared[0], together[0], atol=2e-3 * float(shared.abs().max()))


def test_masks_must_fit_the_batch(tiny_sd15):
    guarded = attach(tiny_sd15, [subject(), subject()])
    with pytest.raises(LimelightError, match="subject_mask: found 2 masks for a batch of 3 images"):
        sample(guarded, conditioning(), noise(3, 4, 16, 16))


@pytest.mark.parametrize("size", [(8, 32), (17, 23), (6, 6)])
def test_any_latent_and_mask_size(tiny_sd15, size):
    x, positive = noise(1, 4, *size), conditioning()
    guarded = attach(tiny_sd15, [subject(90, 50)], **EVERYWHERE)
    assert moved(sample(tiny_sd15, positive, x, steps=2), sample(guarded, positive, x, steps=2))


def test_conditioning_with_an_area_gets_its_part_of_the_mask(tiny_sd15):
    def right(mask: np.ndarray) -> torch.Tensor:
        positive = conditioning(area=(16, 8, 0, 8), strength=1.0)
        return sample(attach(tiny_sd15, [mask], width=0.1, **EVERYWHERE), positive, steps=1)

    plain = sample(tiny_sd15, conditioning(area=(16, 8, 0, 8), strength=1.0), steps=1)
    assert torch.allclose(plain, right(subject(left=0.0)), atol=1e-4 * float(plain.abs().max()))
    assert moved(plain, right(subject(left=0.6)))


def test_highlight_bias_acts_beside_it_in_either_order(tiny_sd15):
    positive = conditioning(CIRCLE, BAR)

    def guarded(model):
        return attach(model, MASKS, **EVERYWHERE)

    def biased(model):
        return bias.attach(model, **EVERYWHERE)

    one, other = sample(guarded(biased(tiny_sd15)), positive), sample(biased(guarded(tiny_sd15)), positive)
    assert torch.allclose(one, other, atol=1e-3 * float(one.abs().max()))
    assert moved(sample(guarded(tiny_sd15), positive), one) and moved(sample(biased(tiny_sd15), positive), one)


@pytest.mark.parametrize("structure", ["sd2", "sdxl"])
def test_sd2_and_sdxl(request, structure):
    model = request.getfixturevalue(structure)
    positive = conditioning_for(model)
    x = noise(1, 4, 16, 24)
    guarded = attach(model, MASKS, **EVERYWHERE)
    assert moved(sample(model, positive, x, steps=1), sample(guarded, positive, x, steps=1))


def test_models_without_numbered_times(tiny_sd15):
    """Their times are logarithms of sigma: the guard must fade by the schedule, not by those."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    model = ModelSamplingContinuousEDM().patch(tiny_sd15, "eps", 14.6, 0.03)[0]
    positive, x = conditioning_for(model), noise(1, 4, 16, 16)
    plain, guarded = (sample(one, positive, x, steps=3) for one in (model, attach(model, MASKS, **EVERYWHERE)))
    assert moved(plain, guarded)


# The node -------------------------------------------------------------------------------------------------------------


def test_the_node_guards(tiny_sd15):
    from limelight.nodes.salient_object_guard import LimelightExpansionGuard

    positive = conditioning()
    guarded = LimelightExpansionGuard.execute(tiny_sd15, torch.from_numpy(subject()), 1.0, 0.0, 1.0, 0.2)[0]
    assert moved(sample(tiny_sd15, positive), sample(guarded, positive))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject_mask": torch.zeros(1, 8, 8)}, "subject_mask.*empty"),
        ({"subject_mask": torch.full((1, 8, 8), 0.3)}, "subject_mask.*nothing to keep"),
        ({"subject_mask": torch.ones(1, 8, 8)}, "subject_mask.*white everywhere.*Invert Mask"),
        ({"subject_mask": torch.full((1, 8, 8), float("nan"))}, "subject_mask.*not numbers"),
        ({"subject_mask": None}, "subject_mask.*nothing"),
        ({"strength": 1.5}, "strength.*1.5.*0 to 1"),
        ({"start_percent": 0.7}, "start_percent.*0.7.*after end_percent 0.6"),
        ({"band": 0.0}, "band"),
        ({"self_strength": "high"}, "self_strength"),
    ],
)
def test_the_node_refuses_what_makes_no_sense(tiny_sd15, change, words):
    from limelight.nodes.salient_object_guard import LimelightExpansionGuard

    mask = torch.from_numpy(subject())[None]
    settings = {"subject_mask": mask, "strength": 0.9, "start_percent": 0.0, "end_percent": 0.6, "band": 0.25}
    with pytest.raises(LimelightError, match=words):
        LimelightExpansionGuard.execute(tiny_sd15, **{**settings, **change})
