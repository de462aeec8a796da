"""Attention bias on small random transformers of the host's classes: the amounts, off is off, batches, other packs."""

from __future__ import annotations

import pytest
import text_encoders
import torch
from guided_runs import BAR, CIRCLE, EVERYWHERE, bound, with_override
from transformer_models import CROSS, TOKENS, build, close, host_mask, joint_calls, latent, places, prompt, run, sizes

from limelight.guidance.attention import joint
from limelight.guidance.attention.bias import attach

pytest_plugins = ["transformer_fixtures"]
OFF = ("red circle", [2, 3], [0.1, 0.1, 0.4, 0.4], 0.0)


def moved(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and not close(a, b, 1e-3)


def by_hand(kind, size, bound_highlights, references=0, tokens=TOKENS):
    """An override that does what the bias says, with whole matrices: first step, strength 1, positive rows only."""
    from limelight.guidance.regions.targets import build_targets

    column, row, grid, queries, keys = places(kind, size, tokens)
    queries, keys = queries + references, keys + references
    mask = torch.zeros(queries, keys)
    for target in build_targets(bound_highlights, *grid, 0.5):
        amount = target.strength * (4 * target.attract - 6 * target.suppress).flatten()
        for token in target.tokens:
            mask[row : row + len(amount), column + token] += amount
    seen = {"calls": 0, "biased": 0}

    def override(func, q, k, v, heads, *args, **kwargs):
        options, split = kwargs["transformer_options"], kwargs.get("skip_reshape", False)
        plain = func(q, k, v, heads, *args, **kwargs)
        if (q.shape[2 if split else 1], k.shape[2 if split else 1]) != (queries, keys):
            return plain
        number = seen["calls"] % joint_calls(kind)
        seen["calls"] += 1
        if number >= -(-3 * joint_calls(kind) // 4):
            return plain
        if not split:
            q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
        chunks = options["cond_or_uncond"]
        own = torch.stack([mask * (1 - which) for which in chunks]).repeat_interleave(q.shape[0] // len(chunks), 0)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + own[:, None]
        given = args[0] if args else kwargs.get("mask")
        weights = (logits if given is None else logits + given).softmax(-1)
        seen["biased"] += 1
        return (weights @ v).transpose(1, 2).flatten(2)

    return override, seen


# The amounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_the_amounts_are_those_of_whole_matrices(kind, model, number):
    size = sizes(kind)[number]
    x, positive = latent(kind, 2, *size), prompt(CIRCLE, BAR)
    override, seen = by_hand(kind, size, bound(CIRCLE, BAR))
    expected = run(with_override(model, override), positive, x)
    assert seen["calls"] == joint_calls(kind) and seen["biased"] > 0
    found = run(attach(model, **EVERYWHERE), positive, x)
    assert close(found, expected)
    assert moved(run(model, positive, x), found)


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [
        ("ZImage", "z_image"),
        ("QwenImage", "qwen_image"),
        ("Flux", "flux"),
        ("Chroma", "chroma"),
        ("Lumina2", "lumina2"),
        ("WAN21_T2V", "wan"),
        ("LTXV", "ltxv"),
        ("CosmosT2IPredict2", "cosmos"),
    ],
)
def test_from_the_prompt_to_the_sampler(host, kind, encoder):
    from limelight.nodes.highlight_bias import LimelightHighlightBias
    from limelight.nodes.highlight_prompt import LimelightHighlightPrompt

    clip, model, x = text_encoders.make(encoder, host.path), build(kind), latent(kind)
    highlights = [
        {"phrase": phrase, "instances": [{"shapes": [{"type": "box", "box": box}]}]}
        for phrase, _, box, _ in (CIRCLE, BAR)
    ]
    document = {"version": 1, "highlights": highlights}
    with torch.inference_mode():
        (positive,) = LimelightHighlightPrompt.execute(clip, "a red circle and a blue bar", document).result
        negative = clip.encode_from_tokens_scheduled(clip.tokenize("blurry"))
    tokens = positive[0][0].shape[1]
    override, seen = by_hand(kind, (16, 16), positive[0][1]["limelight_highlights"], tokens=tokens)
    expected = run(with_override(model, override), positive, x, negative=negative)
    biased = LimelightHighlightBias.execute(model, 1.0, 0.0, 1.0)[0]
    assert seen["biased"] > 0
    assert close(run(biased, positive, x, negative=negative), expected, 1e-4)


def test_pieces_make_no_difference(kind, model, monkeypatch):
    x, positive = latent(kind), prompt(CIRCLE, BAR)
    whole = run(attach(model, **EVERYWHERE), positive, x)
    monkeypatch.setattr(joint, "PIECE", 3000)
    assert close(run(attach(model, **EVERYWHERE), positive, x), whole)


def test_it_fades_over_the_window(zimage):
    x, positive = latent("ZImage"), prompt(CIRCLE, BAR)
    plain = run(zimage, positive, x, steps=4)
    changes = [
        (run(attach(zimage, **settings), positive, x, steps=4) - plain).abs().mean()
        for settings in ({"end_percent": 0.1}, {"end_percent": 1.0}, {"end_percent": 1.0, "strength": 0.2})
    ]
    assert 0 < changes[2] < changes[1] and 0 < changes[0] < changes[1]


# Off is off -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "highlights"),
    [
        ({"strength": 0.0}, [CIRCLE]),
        ({"cross_strength": 0.0}, [CIRCLE]),
        ({}, []),
        ({}, [OFF]),
        ({"start_percent": 0.95, "end_percent": 0.95}, [CIRCLE]),
    ],
    ids=["strength 0", "cross_strength 0", "no highlights", "highlight of strength 0", "window outside"],
)
def test_off_is_bit_identical(kind, model, settings, highlights):
    x, positive = latent(kind), prompt(*highlights)
    assert torch.equal(run(model, positive, x), run(attach(model, **{**EVERYWHERE, **settings}), positive, x))


def test_other_users_of_the_model_see_nothing(kind, model):
    x, positive, clone = latent(kind), prompt(CIRCLE, BAR), model.clone()
    plain = run(model, positive, x)
    biased = attach(model, **EVERYWHERE)
    first = run(biased, positive, x)
    for one, expected in ((model, plain), (clone, plain), (biased, first)):
        assert torch.equal(run(one, positive, x), expected)


# Batches and conditionings --------------------------------------------------------------------------------------------


def test_a_batch_equals_single_runs(kind, model):
    biased, positive, x = attach(model, **EVERYWHERE), prompt(CIRCLE, BAR), latent(kind, 2)
    for one, alone in zip(run(biased, positive, x, steps=2), x, strict=True):
        assert close(one, run(biased, positive, alone[None], steps=2)[0], 1e-4)


def test_the_two_sides_in_one_batch_or_apart(kind, model, monkeypatch):
    biased, positive, x = attach(model, **EVERYWHERE), prompt(CIRCLE, BAR), latent(kind)
    together = run(biased, positive, x)
    other = prompt(seed=9, tokens=31)
    longer = run(biased, positive, x, negative=other)  # the host makes two calls of it
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
    assert close(run(biased, positive, x), together)
    assert close(run(biased, positive, x, negative=other), longer)


def test_only_the_positive_side_is_biased(kind, model):
    seen = []

    def keep(args):
        seen.append([out.clone() for out in args["conds_out"]])
        return args["conds_out"]

    watched = model.clone()
    watched.set_model_sampler_pre_cfg_function(keep)
    for one in (watched, attach(watched, **EVERYWHERE)):
        run(one, prompt(CIRCLE, BAR), latent(kind))
    plain, biased = seen
    assert moved(plain[0], biased[0])
    assert close(biased[1], plain[1])


def test_without_a_negative_side(kind, model):
    x, positive = latent(kind), prompt(CIRCLE, BAR)
    override, _ = by_hand(kind, (16, 16), bound(CIRCLE, BAR))
    expected = run(with_override(model, override), positive, x, cfg=1.0)
    assert close(run(attach(model, **EVERYWHERE), positive, x, cfg=1.0), expected)


def test_several_conditionings(zimage):
    left = prompt(CIRCLE, area=(16, 8, 0, 0), strength=1.0)
    right = prompt(BAR, seed=6, area=(16, 8, 0, 8), strength=1.0)
    other = prompt(BAR, seed=8, tokens=33)
    biased, x = attach(zimage, **EVERYWHERE), latent("ZImage")
    for positive in (left + right, prompt(CIRCLE) + other, left + prompt(seed=8)):
        assert moved(run(zimage, positive, x), run(biased, positive, x))


@pytest.mark.parametrize("kind", CROSS)
def test_as_many_cells_as_words(kind, host):
    """Self- and cross-attention have the same lengths then."""
    model, size = build(kind), (4, 5) if kind == "LTXV" else (8, 10)
    x, positive = latent(kind, 1, *size), prompt(CIRCLE, BAR)
    self_, cross = [], []

    def keep(func, q, k, v, heads, *args, **kwargs):
        (cross if len(self_) > len(cross) else self_).append(k.clone())
        return func(q, k, v, heads, *args, **kwargs)

    run(with_override(model, keep), positive, x)
    found = []
    biased = with_override(model, lambda func, *args, **kwargs: found.append(args[1].clone()) or func(*args, **kwargs))
    run(attach(biased, **EVERYWHERE), positive, x)
    # each block: self-attention of both rows; the unbiased row of the cross-attention
    assert [len(k) for k in found] == [2, 1, 2, 1]
    assert torch.equal(found[0], self_[0]) and torch.equal(found[1], cross[0][:1])


@pytest.mark.parametrize("kind", ["Flux", "Flux2", "QwenImage"])
def test_reference_images_are_left_alone(kind, host):
    model, x = build(kind), latent(kind)
    reference = latent(kind, 1, 8, 6, seed=3)
    positive = prompt(CIRCLE, BAR, reference_latents=[reference])
    negative = prompt(seed=9, reference_latents=[reference])
    cells = 48 if kind == "Flux2" else 12
    override, seen = by_hand(kind, (16, 16), bound(CIRCLE, BAR), cells)
    expected = run(with_override(model, override), positive, x, negative=negative)
    assert seen["biased"] > 0
    assert close(run(attach(model, **EVERYWHERE), positive, x, negative=negative), expected)


# Other packs ----------------------------------------------------------------------------------------------------------


def test_a_foreign_override_keeps_unbiased_calls_and_gets_no_mask(kind, model):
    masks, lengths = [], []

    def override(func, q, k, v, heads, *args, **kwargs):
        masks.append(args[0] if args else kwargs.get("mask"))
        lengths.append((q.shape[0], *(t.shape[2 if kwargs.get("skip_reshape") else 1] for t in (q, k))))
        return 0.5 * func(q, k, v, heads, *args, **kwargs)

    x, positive = latent(kind), prompt(CIRCLE)
    foreign = with_override(model, override)
    plain = run(foreign, positive, x)
    before = len(lengths)
    both = run(attach(foreign, **EVERYWHERE), positive, x)
    assert all(mask is None for mask in masks)
    length = places(kind, (16, 16))[3:]
    biased = -(-3 * joint_calls(kind) // 4)
    assert lengths[before:].count((1, *length)) == biased  # only the other row of the batch
    assert lengths[before:].count((2, *length)) == joint_calls(kind) - biased
    assert moved(plain, both)
    assert not torch.equal(run(attach(model, **EVERYWHERE), positive, x), both)


def test_a_mask_of_the_host_is_kept(host):
    model, x = build("Flux"), latent("Flux")
    positive, weaker = prompt(CIRCLE, **host_mask()), prompt(CIRCLE, **host_mask(0.0))
    biased = attach(model, **EVERYWHERE)
    assert moved(run(biased, weaker, x), run(biased, positive, x))
    assert close(run(biased, weaker, x), run(biased, prompt(CIRCLE), x))
    assert moved(run(model, positive, x), run(biased, positive, x))
