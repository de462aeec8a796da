"""Hard regions without a mask: exactly the masked form, on any kernel."""

from __future__ import annotations

import pytest
import torch
from guided_runs import BAR, CIRCLE, EVERYWHERE, look, prepared, with_override
from transformer_models import build, close, host_mask, joint_calls, latent, places, prompt, run, sizes

from limelight.guidance.attention import bias_joint, routes
from limelight.guidance.attention.bias import attach
from limelight.guidance.attention.joint import Term

pytest_plugins = ["transformer_fixtures"]
OVERLAPPING = ("blue bar", [5, 6], [0.3, 0.3, 0.95, 0.95], 0.6)


def with_masks(monkeypatch):
    """Regions as amounts to add: minus infinity and logarithms."""
    monkeypatch.setattr(bias_joint, "Term", lambda amount, groups=None: Term(amount))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("highlights", [(CIRCLE, BAR), (CIRCLE, OVERLAPPING)], ids=["apart", "overlapping"])
def test_they_equal_the_masked_form(kind, model, number, highlights, monkeypatch):
    x, positive = latent(kind, 2, *sizes(kind)[number]), prompt(*highlights)
    biased = attach(model, method="regions", **EVERYWHERE)
    found = run(biased, positive, x)
    with_masks(monkeypatch)
    masked = run(biased, positive, x)
    assert close(found, masked) and not torch.equal(found, masked)
    assert not close(run(model, positive, x), masked, 1e-3)


def test_every_call_goes_to_the_kernel_of_another_pack_and_none_has_a_mask(kind, model):
    queries, masks = [], []

    def kernel(func, q, k, v, heads, *args, **kwargs):
        masks.append(args[0] if args else kwargs.get("mask"))
        queries.append((q.shape[0], *(t.shape[2 if kwargs.get("skip_reshape") else 1] for t in (q, k))))
        return func(q, k, v, heads, *args, **kwargs)

    x, positive = latent(kind), prompt(CIRCLE, BAR)
    other = with_override(model, kernel)
    plain = run(other, positive, x)
    before = len(queries)
    found = run(attach(other, method="regions", **EVERYWHERE), positive, x)
    assert not any(mask is not None for mask in masks)
    assert torch.equal(found, run(attach(model, method="regions", **EVERYWHERE), positive, x))
    assert not close(found, plain, 1e-3)
    # two regions and the free band: the queries of the pieces are those of a call, none twice
    expected, keys = places(kind, (16, 16))[3:]
    biased = -(-3 * joint_calls(kind) // 4)
    calls = queries[before:]
    whole = calls.index((1, expected, keys))
    pieces, count = calls[whole + 1 :], 0
    while sum(q for _, q, _ in pieces[:count]) < expected:
        count += 1
    assert sum(q for _, q, _ in pieces[:count]) == expected and count > 2
    assert {k - keys for _, _, k in pieces[:count]} >= {2 * 6 - 2}  # seven times two words of one's own, none of others
    assert calls.count((1, expected, keys)) == biased
    assert calls.count((2, expected, keys)) == joint_calls(kind) - biased


def test_a_mask_of_the_host_is_kept(host):
    model, x = build("Flux"), latent("Flux")
    biased = attach(model, method="regions", **EVERYWHERE)
    empty = run(biased, prompt(CIRCLE, **host_mask(0.0)), x)
    assert close(run(biased, prompt(CIRCLE), x), empty)
    assert not close(run(biased, prompt(CIRCLE, **host_mask()), x), empty, 1e-3)


def test_guidance_sees_the_regions(kind, model, monkeypatch):
    """Through the pieces there is a gradient, that of the masked form."""
    x = latent(kind)

    def gradient():
        ready = prepared(model, prompt(CIRCLE, BAR), x, 0.9)
        scene = ready.scenes[0]
        network, sampling = model.model.diffusion_model, model.model.model_sampling
        from limelight.guidance.attention.architectures import family_of
        from limelight.guidance.attention.bias_methods import METHODS

        family = family_of(network)
        strengths = {"attn1": 1.0, "attn2": 1.0}
        joint = bias_joint.JointRun(family, network, sampling, [scene], (0.0, 1.0), METHODS["regions"], strengths)

        def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
            options = joint.options(transformer_options, x, t, c_crossattn, kwargs)
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        ready.options = {"transformer_options": {"wrappers": {"apply_model": {"regions": [wrapper]}}}}
        kind_of = "double" if "double" in dict(family.stacks) else family.stacks[0][0]
        return look(ready, x, layers=f"{kind_of} 1").gradient

    found = gradient()
    with_masks(monkeypatch)
    assert close(found, gradient(), 1e-4)


def test_counts(host):
    from limelight.guidance.attention.bias_methods import METHODS, Layout

    regions = METHODS["regions"]
    attract = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.2, 0.0], [0.0, 0.0]])[None, None]
    suppress = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.9], [1.0, 1.0]])[None, None]
    layout = Layout([], attract, suppress, None, torch.tensor([1.0, 1.0]), None)
    expected = [[7, 0], [7, 7], [1, 0], [0, 0]]
    assert regions.counts(layout, 1.0)[0, 0].tolist() == expected
    halved = regions.counts(layout, 0.5)[0, 0].tolist()
    assert halved == [[3, 0], [3, 3], [1, 0], [0, 0]]
    off = Layout([], attract, suppress, None, torch.tensor([1.0, 0.0]), None)
    assert regions.counts(off, 1.0)[0, 0].tolist() == [[7, 1], [7, 1], [1, 1], [0, 1]]


def test_groups_hold_every_cell_that_is_not_free_once():
    counts = torch.tensor([[7.0, 0], [1, 1], [0, 7], [7, 0], [1, 1], [7, 7]])
    own = torch.zeros(2, 6)
    own[0, 2] = own[1, 3] = own[1, 4] = 1
    groups = {tuple(group.cells.tolist()): group.columns.tolist() for group in routes.groups_of(counts, own)}
    assert groups == {
        (0, 3): [0, 1, *[2] * 7, 5],
        (2,): [0, 1, *[3] * 7, *[4] * 7, 5],
        (5,): [0, 1, *[2] * 7, *[3] * 7, *[4] * 7, 5],
    }
    weights = routes.weights_of(counts, own)
    assert weights[0].exp().round().tolist() == [1, 1, 7, 0, 0, 1]
    assert not weights[1].any()
