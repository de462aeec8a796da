"""Adapters with a region: the host's numbers without one, exactly nothing outside of one."""

from __future__ import annotations

import pytest
import torch
from adapter_weights import NARROW, PUBLISHED, full, light
from guided_runs import noise
from local_runs import Watched, adapter, applied, call, close, entries, half, hint, prompts, region, run, same

from limelight.guidance.errors import LimelightError

pytestmark = pytest.mark.usefixtures("host")

SD, XL = full(192), full(768)
LOADED_BY_HOST = {
    "full": SD,
    "full, one channel": full(64),
    "full, kernels of 3": full(192, kernel=3),
    "full, strided convolutions": full(192, down_convs=True),
    "SDXL": XL,
    "SDXL, one channel": full(256),
    "light": light(192, PUBLISHED),
}


@pytest.fixture(scope="module")
def hosts(host):
    """-> function (weights) -> the host's own T2IAdapter."""
    from comfy.controlnet import load_t2i_adapter

    return lambda state: load_t2i_adapter(dict(state))


@pytest.mark.parametrize("name", LOADED_BY_HOST)
def test_without_a_region_it_is_the_hosts_adapter(hosts, name):
    state = LOADED_BY_HOST[name]
    for size in ((16, 16), (17, 13), (12, 23)):
        picture = hint(130, 110)
        theirs, ours = applied(hosts(state), picture, 0.7), applied(adapter(state), picture, 0.7)
        everywhere = applied(adapter(state).with_region(region(torch.ones(1, 65, 55), feather=9.0)), picture, 0.7)
        x = noise(4, 4, *size)
        wanted = call(theirs, x, 2)
        assert same(call(ours, x, 2), wanted) and same(call(everywhere, x, 2), wanted)


@pytest.mark.parametrize("layout", ["diffusers", "diffusers, SDXL", "nested"])
def test_other_layouts_of_the_host(hosts, layout):
    from limelight.models.adapter_files import build, diffusers_names

    state = {"adapter": SD} if layout == "nested" else diffusers_names(build(XL if "XL" in layout else SD, "x"))[0]
    picture, x = hint(128), noise(1, 4, 16, 16)
    assert same(call(applied(adapter(state), picture), x), call(applied(hosts(state), picture), x))


def test_the_hosts_adapter_becomes_ours(hosts):
    from limelight.guidance.local.adapter_control import of_host

    picture, x = hint(128), noise(1, 4, 16, 16)
    for state in LOADED_BY_HOST.values():
        theirs = hosts(state)
        assert same(call(applied(of_host(theirs), picture), x), call(applied(theirs, picture), x))
    assert of_host(object()) is None


@pytest.mark.parametrize("where", ["both", "features"])
@pytest.mark.parametrize("state", [SD, XL, light()], ids=["SD", "XL", "light"])
def test_half_a_mask(state, where):
    picture, x = hint(128), noise(2, 4, 16, 16)
    masked = adapter(state).with_region(region(half(), where=where, halo=500.0))
    found, whole = (entries(call(applied(each, picture, 0.7), x)) for each in (masked, adapter(state)))
    assert found.keys() == whole.keys()
    for key, value in found.items():
        middle = value.shape[-1] // 2
        assert torch.equal(value[..., :middle], whole[key][..., :middle])
        assert (value[..., middle:] == 0).all() and (whole[key][..., middle:] != 0).any()


@pytest.mark.parametrize("state", [SD, XL, light()], ids=["SD", "XL", "light"])
def test_soft_masks_count_by_area(state):
    picture, x, mask = hint(128), noise(1, 4, 16, 16), torch.rand(1, 128, 128)
    control = adapter(state).with_region(region(mask, where="features"))
    found, whole = (entries(call(applied(each, picture), x)) for each in (control, adapter(state)))
    for key, value in found.items():
        share = torch.nn.functional.avg_pool2d(mask[None], 128 // value.shape[-1])
        assert torch.allclose(value, whole[key] * share, atol=1e-5)


def test_mask_and_hint_are_cut_alike():
    """A wide hint loses its sides in a square image, and the mask with it."""
    picture, mask = hint(128, 256), torch.zeros(1, 64, 128)
    mask[:, :, :64] = 1
    for state in (SD, XL):
        control = applied(adapter(state).with_region(region(mask, where="features")), picture)
        cut = applied(adapter(state).with_region(region(half(), where="features")), picture[..., 64:192])
        assert same(call(control, noise(1, 4, 16, 16)), call(cut, noise(1, 4, 16, 16)))


def test_nothing_white_in_sight_is_no_control():
    """A tile or area that the region does not touch."""
    picture, x = hint(128), noise(1, 4, 16, 16)
    empty = applied(adapter(SD).with_region(region(torch.zeros(1, 128, 128))), picture)
    assert call(empty, x) is None
    before = applied(adapter(full(192, seed=1)), picture)
    assert same(call(empty.set_previous_controlnet(before), x), call(before, x))


def test_runs_are_the_hosts(hosts, sd15):
    """Through the sampler; with a zero mask and with strength 0 as without any control."""
    picture, x = hint(128), noise(1, 4, 16, 16)

    def image(control):
        return run(sd15, *prompts(sd15, control), x)

    plain = image(None)
    theirs = image(applied(hosts(SD), picture, 0.8))
    assert torch.equal(image(applied(adapter(SD), picture, 0.8)), theirs)
    ones = adapter(SD).with_region(region(torch.ones(1, 128, 128)))
    assert torch.equal(image(applied(ones, picture, 0.8)), theirs)
    for nothing in (region(torch.zeros(1, 128, 128)), region(strength=0.0), region(half(), cond=0.0, uncond=0.0)):
        assert torch.equal(image(applied(adapter(SD).with_region(nothing), picture, 0.8)), plain)
    masked = image(applied(adapter(SD).with_region(region(half())), picture, 0.8))
    assert not torch.equal(masked, theirs) and not torch.equal(masked, plain)


def test_sdxl_runs_are_the_hosts(hosts, make_unet):
    model = make_unet("SDXL", transformer_depth=[0, 0, 1, 1, 1, 1], transformer_depth_middle=1,
                      transformer_depth_output=[0, 0, 0, 1, 1, 1, 1, 1, 1])  # fmt: skip
    state, picture, x = full(768, NARROW), hint(104), noise(1, 4, 13, 13)
    ours = adapter(state)
    seen = Watched(ours.network)
    found = run(model, *prompts(model, applied(ours, picture)), x, steps=3)
    assert torch.equal(found, run(model, *prompts(model, applied(hosts(state), picture)), x, steps=3))
    assert len(seen.hints) == 1  # odd size: the host's class runs the network at every step


@pytest.mark.parametrize("count", [1, 4])
def test_batches_are_their_parts(count):
    """4 = 2 + 2 = 1 + 1 + 1 + 1, with one control for all calls, in any order."""
    picture, masks = hint(128, count=count), torch.stack([half()[0].roll(13 * i, 1) for i in range(count)])
    control = applied(adapter(SD).with_region(region(masks, feather=8.0)), picture)
    x = noise(4, 4, 16, 16)
    window = type("Window", (), {"dim": 0})

    def piece(numbers):
        given = window()
        given.index_list = numbers
        value = entries(call(control, x[numbers], context_window=given))
        return {key: v.expand(len(numbers), *v.shape[1:]) for key, v in value.items()}

    whole = {key: v.expand(4, *v.shape[1:]) for key, v in entries(call(control, x)).items()}
    for split in ([[0, 1], [2, 3]], [[3], [0], [2], [1]], [[0, 1, 2, 3]]):
        pieces = {n: piece(numbers) for numbers in split for n in [tuple(numbers)]}
        for key, value in whole.items():
            for numbers, found in pieces.items():
                assert (found[key] - value[list(numbers)]).abs().max() <= 1e-4 * value.abs().max()


def test_hints_repeat_and_the_batch_may_change():
    """The host's class keeps the features of the first batch it sees."""
    picture, control = hint(128, count=2), adapter(SD)
    control = applied(control, picture)
    four, two = entries(call(control, noise(8, 4, 16, 16), 2)), entries(call(control, noise(2, 4, 16, 16)))
    for key, value in four.items():
        assert value.shape[0] == 8 and two[key].shape[0] == 2
        for row in range(8):
            assert torch.equal(value[row], two[key][row % 2])


def test_one_hint_and_many_masks():
    masks = torch.cat([half(), 1 - half()])
    control = applied(adapter(SD).with_region(region(masks, where="features")), hint(128))
    for value in entries(call(control, noise(2, 4, 16, 16))).values():
        middle = value.shape[-1] // 2
        assert (value[0][..., middle:] == 0).all() and (value[1][..., :middle] == 0).all()


def test_a_result_may_be_changed():
    """The model adds to what it gets, and takes entries out of the lists."""
    control = applied(adapter(SD), hint(128))
    first = call(control, noise(1, 4, 16, 16))
    copies = {key: value.clone() for key, value in entries(first).items()}
    for values in first.values():
        while values:
            value = values.pop()
            if value is not None:
                with torch.inference_mode():
                    value.fill_(7)
    again = entries(call(control, noise(1, 4, 16, 16)))
    assert all(torch.equal(again[key], value) for key, value in copies.items())


def test_chains_with_the_hosts(hosts):
    picture, x = hint(128), noise(1, 4, 16, 16)
    for mine, other in ((SD, full(192, seed=2)), (XL, full(768, seed=2))):
        alone = [entries(call(applied(made, picture), x)) for made in (adapter(mine), hosts(other))]
        wanted = {key: alone[0][key] + value for key, value in alone[1].items()}
        first = applied(adapter(mine), picture, before=applied(hosts(other), picture))
        last = applied(hosts(other), picture, before=applied(adapter(mine), picture))
        for chain in (first, last):
            found = entries(call(chain, x))
            assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_wrong_model(sd15, sd2, sdxl):
    sigma = sd15.model.model_sampling.percent_to_sigma
    adapter(SD).pre_run(sd15.model, sigma)
    adapter(SD).pre_run(sd2.model, sigma)
    adapter(XL).pre_run(sdxl.model, sigma)
    adapter(full(64, NARROW[:3])).pre_run(sdxl.model, sigma)  # three levels, folded by 8
    for state, model in ((SD, sdxl), (XL, sd15), (full(192, PUBLISHED), sd15), (light(64, PUBLISHED), sdxl)):
        with pytest.raises(LimelightError, match="adapter was made for"):
            adapter(state).pre_run(model.model, sigma)
    other = type("Model", (), {"diffusion_model": torch.nn.Linear(1, 1)})()
    with pytest.raises(LimelightError, match="Linear"):
        adapter(SD).pre_run(other, sigma)


def test_wrong_model_stops_before_the_first_step(sdxl):
    calls = []
    model = sdxl.clone()
    model.set_model_unet_function_wrapper(lambda apply, given: calls.append(1))
    with pytest.raises(LimelightError):
        run(model, *prompts(model, applied(adapter(SD), hint(128))), noise(1, 4, 16, 16))
    assert not calls


def test_wrong_hint_and_mask():
    with pytest.raises(LimelightError, match="has 4"):
        applied(adapter(SD), hint(64, channels=4))
    applied(adapter(full(64)), hint(64, channels=4))  # one channel: any hint is averaged, as the host does it
    with pytest.raises(LimelightError, match="same aspect"):
        applied(adapter(SD).with_region(region(torch.ones(1, 64, 128))), hint(64))
    with pytest.raises(LimelightError, match="3 masks for 2 hints"):
        applied(adapter(SD).with_region(region(torch.ones(3, 64, 64))), hint(64, count=2))


def test_what_newer_hosts_ask_for():
    control = applied(adapter(SD).with_region(region(half())), hint(128))
    copy = control.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert control.get_instance_for_device(torch.device("cpu")) is copy
    assert control.get_instance_for_device("other") is control
    assert copy.network is not control.network and control.get_models_only_self() == [control.patcher]
    x = noise(1, 4, 16, 16)
    assert same(call(copy, x), call(control, x))
    assert control.copy().network is control.network and not control.copy().multigpu_clones


def test_close_is_not_blind():
    x = noise(1, 4, 16, 16)
    found = call(applied(adapter(SD), hint(128)), x)
    assert close(found, found) and not close(found, call(applied(adapter(SD), hint(128), 0.9), x))


def test_under_the_guided_step(tiny_sd15):
    """Highlight Guidance differentiates the model; what a control adds is a constant to it."""
    from guided_runs import BAR, attach, conditioning, sample

    control = applied(adapter(full(192, (32, 64, 64))).with_region(region(half())), hint(128))
    model, images = attach(tiny_sd15), []
    for options in ({}, {"control": control}):
        positive = conditioning(BAR)
        positive = [[text, {**given, **options}] for text, given in positive]
        images.append(sample(model, positive, steps=2))
        assert not torch.equal(images[-1], sample(tiny_sd15, positive, steps=2))
    assert images[1].isfinite().all() and not torch.equal(*images)
