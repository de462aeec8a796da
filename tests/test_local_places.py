"""Areas, mask bounds, tiles and windows: hint and mask are cut at the right place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from adapter_weights import NARROW, full
from guided_runs import conditioning_for, noise
from local_runs import Watched, adapter, applied, call, close, entries, hint, prompts, region, run, same

pytestmark = pytest.mark.usefixtures("host")

SD, XL = full(192), full(768)


def mask(side: int = 256) -> torch.Tensor:
    made = torch.zeros(1, side, side)
    made[:, side // 8 : side // 2, side // 4 :] = 1
    return made


def ramp(side: int) -> torch.Tensor:
    """A hint that says where it is: its channels are row, column and their sum."""
    at = torch.arange(side) / side
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([rows, columns, (rows + columns) / 2])[None]


@pytest.fixture
def tiny(make_unet):
    """A UNet of SD1's block structure, for short runs."""
    return make_unet("SD15", channel_mult=[1, 2], num_res_blocks=[1, 1], transformer_depth=[1, 1],
                     transformer_depth_output=[1, 1, 1, 1])  # fmt: skip


TWO = full(192, NARROW[:2])


@pytest.mark.parametrize("kind", ["area", "percentage", "mask bounds"])
def test_area_gets_its_part_of_the_hint(tiny, kind, core_nodes):
    """ConditioningSetArea and mask bounds; ComfyUI squeezes the whole hint into them (its issue 13430)."""
    picture, x = ramp(256), noise(1, 4, 32, 32)
    control = applied(adapter(TWO), picture)
    seen = Watched(control.network)
    (text, options), *_ = prompts(tiny, control)[0]
    if kind == "area":
        (positive,) = core_nodes["ConditioningSetArea"]().append([[text, options]], 128, 64, 64, 32, 1.0)
    elif kind == "percentage":
        (positive,) = core_nodes["ConditioningSetAreaPercentage"]().append(
            [[text, options]], 0.5, 0.25, 0.25, 0.125, 1.0
        )
    else:
        bounds = torch.zeros(1, 256, 256)
        bounds[:, 32:96, 64:192] = 1
        (positive,) = core_nodes["ConditioningSetMask"]().append([[text, options]], bounds, "mask bounds", 1.0)
    run(tiny, positive + conditioning_for(tiny, seed=8), conditioning_for(tiny, seed=9), x)
    cut = picture[:, :, 32:96, 64:192]
    assert [tuple(given.shape) for given in seen.hints] == [(1, 3, 64, 128)]
    assert torch.equal(seen.hints[0], cut)


def watched(model, look) -> object:
    """A clone of the model that shows `look` what each call of it is given."""

    def wrapper(apply, given):
        look(given)
        return apply(given["input"], given["timestep"], **given["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def test_area_is_as_if_it_was_cut_by_hand(tiny):
    """What the model gets in the area is what the cut hint and the cut mask alone would give."""
    picture, x = hint(256), noise(1, 4, 32, 32)
    whole = applied(adapter(TWO).with_region(region(mask(), where="features")), picture)
    (text, options), *_ = conditioning_for(tiny)
    positive = [[text, {**options, "control": whole, "area": (16, 24, 4, 8)}], *conditioning_for(tiny, seed=8)]
    shown = []
    model = watched(tiny, lambda given: shown.append((given["input"], entries(given["c"].get("control")))))
    run(model, positive, conditioning_for(tiny, seed=9), x, 1)
    ((part, found),) = [each for each in shown if each[1]]
    by_hand = adapter(TWO).with_region(region(mask()[:, 32:160, 64:256], where="features"))
    by_hand = applied(by_hand, picture[:, :, 32:160, 64:256])
    by_hand.pre_run(tiny.model, tiny.model.model_sampling.percent_to_sigma)
    wanted = entries(call(by_hand, part))
    assert part.shape[-2:] == (16, 24) and found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def told(parts: list[tuple[int, int, int, int]], size: tuple[int, int]) -> dict:
    """What the run leaves for calls on these areas (height, width, top, left)."""
    from limelight.guidance.local.view import AREAS, Areas

    return {"uuids": list(range(len(parts))), AREAS: Areas(size, dict(enumerate(parts)))}


@pytest.mark.parametrize("state", [SD, XL], ids=["SD", "XL"])
def test_areas_of_one_size_may_be_in_one_call(state):
    """The host joins conditionings whose areas have one size, wherever those are."""
    control = applied(adapter(state).with_region(region(mask(), where="features")), hint(256))
    places = [(16, 12, 0, 4), (16, 12, 12, 20)]
    x = noise(4, 4, 16, 12)
    both = entries(call(control, x, 2, **told(places, (32, 32))))
    for number, place in enumerate(places):
        alone = entries(call(control, x[:2], **told([place], (32, 32))))
        for key, value in both.items():
            wanted = alone.get(key, torch.zeros_like(value[:1]))
            assert (value[2 * number : 2 * number + 2] - wanted).abs().max() <= 1e-5


def test_masks_of_areas_are_those_of_the_whole():
    """What the region leaves of the features, cell by cell, is the whole's."""
    ones = torch.ones(1, 3, 256, 256)
    whole = adapter(SD).with_region(region(mask(), where="features"))
    x = noise(1, 4, 32, 32)
    place = (16, 16, 8, 16)
    share = {}
    for name, options, size in (("whole", {}, x), ("part", told([place], (32, 32)), x[:, :, :16, :16])):
        masked, plain = (entries(call(applied(each, ones), size, **options)) for each in (whole, adapter(SD)))
        share[name] = {key: (value / plain[key])[:, 0] for key, value in masked.items()}
    for (_, place_), value in share["part"].items():
        stride = 2 ** ((place_ - 2) // 3)
        cut = share["whole"]["input", place_][:, 8 // stride : 24 // stride, 16 // stride : 32 // stride]
        assert torch.allclose(value, cut, atol=1e-5)


def test_tiles_that_replace_the_resized_hint():
    """TiledDiffusion sets `cond_hint` before each tile: another tile, other features, and its own mask."""
    picture = hint(256)
    control = applied(adapter(SD).with_region(region(mask())), picture)
    whole, x = control.cond_hint_original, noise(1, 4, 16, 16)
    found = []
    for top, left in ((0, 0), (0, 128), (128, 128), (0, 128)):
        control.cond_hint = whole[:, :, top : top + 128, left : left + 128].clone()
        found.append(call(control, x))
        cut = applied(adapter(SD).with_region(region(mask()[:, top : top + 128, left : left + 128])),
                      picture[:, :, top : top + 128, left : left + 128])  # fmt: skip
        assert same(found[-1], call(cut, x))
    assert not same(found[0], found[1]) and found[2] is None and same(found[1], found[3])
    assert same(call(control, noise(1, 4, 32, 32)), call(applied(adapter(SD).with_region(region(mask())), picture),
                                                         noise(1, 4, 32, 32)))  # fmt: skip


def test_tiles_in_one_batch():
    """TiledDiffusion also joins tiles, with a hint for every row of the call."""
    control = applied(adapter(SD).with_region(region(mask(), uncond=0.5)), hint(256))
    whole, x = control.cond_hint_original, noise(4, 4, 16, 16)
    tiles = [whole[:, :, :128, :128], whole[:, :, :128, 128:]] * 2
    control.cond_hint = torch.cat(tiles)
    found = entries(call(control, x, 2, cond_or_uncond=[0, 1]))
    for row, tile in enumerate(tiles):
        control.cond_hint = tile
        alone = entries(call(control, x[:1]))
        for key, value in found.items():
            assert torch.allclose(value[row], alone[key][0] * (1 if row < 2 else 0.5), atol=1e-4)


def test_tools_that_crop_the_hint():
    """UltimateSDUpscale crops `cond_hint_original` of a copy, all channels."""
    picture, x = hint(256), noise(1, 4, 16, 16)
    control = applied(adapter(SD).with_region(region(mask())), picture).copy()
    control.cond_hint_original = control.cond_hint_original[:, :, 64:192, 128:]
    cut = applied(adapter(SD).with_region(region(mask()[:, 64:192, 128:])), picture[:, :, 64:192, 128:])
    assert same(call(control, x), call(cut, x))


def test_crops_that_nobody_told_of():
    """The options speak of areas, but the call has another size: what is there is taken for the whole."""
    control, x = applied(adapter(SD), hint(256)), noise(1, 4, 8, 8)
    assert same(call(control, x, **told([(16, 16, 0, 0)], (32, 32))), call(control, x))


def test_animatediff_windows():
    control = applied(adapter(SD), hint(128, count=6))
    found = call(control, noise(2, 4, 16, 16), ad_params={"sub_idxs": [5, 1]})
    picture = hint(128, count=6)[[5, 1]]
    assert close(found, call(applied(adapter(SD), picture), noise(2, 4, 16, 16)))


@pytest.mark.parametrize(("anchor", "images"), [(None, [3, 4]), (-1, [3, 4]), (2, [2, 3, 4])])
def test_the_image_before_a_window(anchor, images):
    """Newer hosts put it in front of the window's own."""
    picture, x = hint(128, count=6), noise(6, 4, 16, 16)
    window = SimpleNamespace(dim=0, index_list=[3, 4], causal_anchor_index=anchor)
    found = call(applied(adapter(SD), picture), x[images], context_window=window)
    assert close(found, call(applied(adapter(SD), picture[images]), x[images]))


def test_context_windows_of_the_host(tiny):
    """A batch of 6 in windows of 4: each window gets its own hints and masks."""
    import comfy.context_windows as windows

    masks = torch.stack([torch.zeros(128, 128).index_fill(1, torch.arange(20 * i, 20 * i + 20), 1) for i in range(6)])
    picture = torch.arange(6.0)[:, None, None, None].expand(-1, 3, 128, 128) / 6
    control = applied(adapter(TWO).with_region(region(masks, where="features")), picture)
    schedule = windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD)
    fuse = windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID)
    model = tiny.clone()
    model.model_options["context_handler"] = windows.IndexListContextHandler(schedule, fuse, 4, 2, dim=0)
    found = []
    original = control.get_control

    def watch(x, t, cond, chunks, options):
        made = original(x, t, cond, chunks, options)
        window = options["context_window"]
        anchor = getattr(window, "causal_anchor_index", None)  # an image more, in newer hosts
        images = [*window.index_list] if anchor is None else [anchor, *window.index_list]
        found.append((tuple(window.index_list), images, chunks, entries(made)["input", 1]))
        return made

    control.get_control = watch
    # as many noise levels as images: the host's handler compares the two, and can do so only then
    run(model, *prompts(tiny, control), noise(6, 4, 16, 16), steps=5)
    assert {listed for listed, *_ in found} == {(0, 1, 2, 3), (2, 3, 4, 5)}
    for _, images, chunks, value in found:
        assert len(value) == len(images) * chunks
        for row, image in enumerate(images * chunks):
            where = (value[row] != 0).any(0).any(0).nonzero().flatten().tolist()
            assert where == [c for c in range(16) if masks[image, 0, 8 * c : 8 * c + 8].any()]


def test_conditionings_are_as_without_the_hook(tiny):
    """It is gone when sampling begins: the host does not switch between hooks, and one call serves both prompts."""
    from comfy.patcher_extension import WrappersMP

    calls, hooked = [], []

    def look(executor, model, conds, *args):
        hooked.extend("hooks" in cond for entries in conds for cond in entries)
        return executor(model, conds, *args)

    model = watched(tiny, lambda given: calls.append(given["cond_or_uncond"]))
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", look)
    first = applied(adapter(TWO), hint(128))
    for control in (first, applied(adapter(TWO), hint(128), before=first)):
        calls.clear()
        run(model, *prompts(tiny, control), noise(1, 4, 16, 16), 2)
        assert calls == [[1, 0]] * 2
    assert hooked and not any(hooked)
