"""Settings of a control's region: what is kept between calls, the blank response, the halo, levels and curve."""

from __future__ import annotations

import pytest
import torch
from adapter_weights import full
from guided_runs import noise
from local_runs import Watched, adapter, applied, call, close, entries, half, hint, region, same

pytestmark = pytest.mark.usefixtures("host")

SD = full(192)


def test_the_network_runs_once_for_what_it_has_seen():
    picture = hint(128)
    control = applied(adapter(SD).with_region(region(half())), picture)
    seen = Watched(control.network)
    first = call(control, noise(1, 4, 16, 16))
    again = call(control, noise(2, 4, 16, 16), 2)
    assert len(seen.hints) == 1 and same(first, again)
    control.cond_hint_original = control.cond_hint_original.clone()  # other tensors that hold the same
    call(control, noise(1, 4, 16, 16))
    assert len(seen.hints) == 1
    control.cond_hint_original += 0.1  # changed in place
    assert not same(call(control, noise(1, 4, 16, 16)), first) and len(seen.hints) == 2
    control.cleanup()
    assert control.cond_hint is None and not control.kept._values


def test_what_is_kept_has_a_limit(monkeypatch):
    """Long batches and tiles: the oldest features go, and those in use stay."""
    from limelight.guidance.local import control as module

    picture = hint(64, count=12)
    control = applied(adapter(SD), picture)
    window = type("Window", (), {"dim": 0})
    monkeypatch.setattr(module, "_MEMORY", 300_000)
    for start in (0, 4, 8, 0):
        window.index_list = list(range(start, start + 4))
        found = call(control, noise(4, 4, 8, 8), context_window=window)
        alone = applied(adapter(SD), picture[start : start + 4])
        assert close(found, call(alone, noise(4, 4, 8, 8)))
    held = sum(t.numel() * 4 for v in control.kept._values.values() for t in v if isinstance(t, torch.Tensor))
    assert held < 1_000_000 and len(control.kept._values) < 12


def test_blank_response():
    picture, x = hint(128), noise(1, 4, 16, 16)
    plain = entries(call(applied(adapter(SD), picture), x))
    for fill in (0.0, 0.5):
        empty = entries(call(applied(adapter(SD), torch.full_like(picture, fill)), x))
        found = entries(call(applied(adapter(SD).with_region(region(blank=0.75, fill=fill)), picture), x))
        for key, value in found.items():
            assert (value - (plain[key] - 0.75 * empty[key])).abs().max() < 1e-5
    nothing = applied(adapter(SD).with_region(region(blank=1.0)), torch.zeros_like(picture))
    assert all((value == 0).all() for value in entries(call(nothing, x)).values())


def test_hint_is_cut_beyond_the_halo():
    """Fine levels do not feel the cut inside of the region; far away the hint no longer matters."""
    x, mask = noise(1, 4, 64, 64), torch.zeros(1, 512, 512)
    mask[:, :, :128] = 1
    control, reach = adapter(SD), adapter(SD).network.form.reach
    picture = hint(512)
    both, features = (
        entries(call(applied(control.with_region(region(mask, where=where)), picture), x))
        for where in ("both", "features")
    )
    for place in (("input", 2), ("input", 5)):  # levels 1 and 2, which see no further than the halo
        assert torch.equal(both[place], features[place])
    assert not torch.equal(both["input", 11], features["input", 11])
    changed = picture.clone()
    changed[..., 128 + int(1.5 * reach[1]) :] = 0.9
    again = entries(call(applied(control.with_region(region(mask)), changed), x))
    assert all(torch.equal(again[key], value) for key, value in both.items())


def test_hint_mode_acts_everywhere():
    control = adapter(SD).with_region(region(half(), where="hint", halo=0.0))
    seen = Watched(control.network)
    found = entries(call(applied(control, torch.ones(1, 3, 128, 128)), noise(1, 4, 16, 16)))
    assert all((value[..., -1:] != 0).any() for value in found.values())
    assert (seen.hints[0][..., :64] == 1).all() and (seen.hints[0][..., 65:] == 0).all()


def test_positive_and_negative():
    picture, x = hint(128), noise(2, 4, 16, 16)
    plain = entries(call(applied(adapter(SD), picture, 0.5), x))
    control = applied(adapter(SD).with_region(region(cond=1.0, uncond=0.25)), picture, 0.5)
    found = entries(call(control, x, 2, cond_or_uncond=[1, 0]))
    for key, value in found.items():
        assert torch.allclose(value[0], 0.25 * plain[key][0]) and torch.equal(value[1], plain[key][0])


def test_levels_and_curve(sd15):
    picture, x = hint(128), noise(1, 4, 16, 16)
    plain = entries(call(applied(adapter(SD), picture), x))
    weights = (0.25, 0.5, 0.75, 0.0)
    found = entries(call(applied(adapter(SD).with_region(region(levels=weights)), picture), x))
    for place, weight in zip((2, 5, 8, 11), weights, strict=True):
        assert torch.allclose(found["input", place], weight * plain["input", place])
    control = applied(adapter(SD).with_region(region(curve=((0.0, 1.0), (1.0, 0.0)))), picture)
    percent_to_sigma = sd15.model.model_sampling.percent_to_sigma
    control.pre_run(sd15.model, percent_to_sigma)
    for share in (0.1, 0.5, 0.9):
        value = entries(call(control, x, sigma=float(percent_to_sigma(share))))["input", 2]
        assert torch.allclose(value, (1 - share) * plain["input", 2], rtol=1e-3, atol=1e-6)


def test_time_range(sd15):
    control = applied(adapter(SD), hint(128), span=(0.2, 0.6))
    percent_to_sigma = sd15.model.model_sampling.percent_to_sigma
    control.pre_run(sd15.model, percent_to_sigma)
    for share, on in ((0.1, False), (0.2, True), (0.4, True), (0.6, True), (0.7, False)):
        found = call(control, noise(1, 4, 16, 16), sigma=float(percent_to_sigma(share)))
        assert (found is not None) is on
