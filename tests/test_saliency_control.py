"""Apply Saliency ControlNet in the host's own sampler, with a narrow ControlNet of the host's own class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TINY_SD15, random_weights
from guided_runs import noise

from limelight.guidance.errors import LimelightError
from limelight.guidance.saliency import maps as saliency_maps

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def apply(host):
    """-> function (positive, negative, control_net, saliency, ...) -> both conditionings."""
    from limelight.nodes.saliency_control import LimelightSaliencyApply

    return lambda *args, **kwargs: LimelightSaliencyApply.execute(*args, **kwargs).result


def control_net(seed: int = 4, **changes):
    """What the host's ControlNetLoader gives, tiny and with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet

    config = {k: v for k, v in TINY_SD15.items() if k not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(**{**config, "hint_channels": 3, **changes})
    random_weights(network, seed=seed, gain=0.5)
    random_weights(network.input_hint_block, seed=seed, gain=2.0)  # the hint is to be felt behind its eight layers
    return comfy.controlnet.ControlNet(network, load_device=CPU)


def prompts(width: int = 64) -> list[list]:
    """A positive and a negative CONDITIONING."""
    return [[[noise(1, 77, width, seed=seed), {}]] for seed in (5, 9)]


def blob(height: int = 40, width: int = 50, x: float = 0.8, y: float = 0.6, amplitude: float = 0.7) -> torch.Tensor:
    one = {"x": x, "y": y, "sx": 0.2, "sy": 0.15, "amplitude": amplitude}
    return torch.from_numpy(
        saliency_maps.gaussians(saliency_maps.parse_blobs({"version": 1, "blobs": [one]}), height, width)
    )[None]


def run(model, positive, negative, x=None, steps: int = 2) -> torch.Tensor:
    import comfy.sample

    x = noise(1, 4, 16, 16) if x is None else x
    with torch.inference_mode():
        return comfy.sample.sample(
            model, x, steps, 3.0, "euler", "normal", positive, negative, torch.zeros_like(x), seed=0, disable_pbar=True
        ).clone()


def hints(net) -> list[torch.Tensor]:
    """What the network is given from now on."""
    seen = []
    net.control_model.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["hint"].clone()), with_kwargs=True
    )
    return seen


def test_the_whole_map_arrives_at_the_images_size_and_keeps_its_values(tiny_sd15, apply, core_nodes):
    net, wanted = control_net(), blob(40, 50, x=0.02)
    seen = hints(net)
    x = noise(1, 4, 16, 24)
    run(tiny_sd15, *apply(*prompts(), net, wanted), x=x, steps=1)
    assert seen[0].shape[1:] == (3, 128, 192)
    expected = saliency_maps.resize(wanted.numpy(), 128, 192)
    assert all(np.array_equal(channel, expected[0]) for channel in seen[0][0].numpy())
    assert 0.65 < seen[0].max() <= 0.7  # 1 if it were normalised
    assert seen[0][0, 0, 70, :3].min() > 0.6  # the edge, which a cut to the latent's aspect takes away
    assert seen[0].diff(dim=-1).abs().max() < 0.02  # no blocks
    stock = core_nodes["ControlNetApplyAdvanced"]().apply_controlnet
    picture = wanted[..., None].expand(-1, -1, -1, 3)
    run(tiny_sd15, *stock(*prompts(), net, picture, 1.0, 0.0, 1.0), x=x, steps=1)
    assert seen[-1].diff(dim=-1).abs().max() > 0.04  # what it is worth


def test_what_the_control_net_does_with_its_hint_is_done_and_a_copy_sees_the_same(tiny_sd15, apply):
    net, wanted = control_net(), blob(16, 24)
    net.preprocess_image = lambda hint: 1 - hint  # as the host's depth ControlNet of Stable Diffusion 3.5
    seen = hints(net)
    positive, negative = apply(*prompts(), net, wanted)
    copied = [
        [[tensor, {**options, "control": options["control"].copy()}]] for tensor, options in (*positive, *negative)
    ]
    for both in ((positive, negative), copied):
        run(tiny_sd15, *both, x=noise(1, 4, 8, 8), steps=1)
    expected = 1 - torch.from_numpy(saliency_maps.resize(wanted.numpy(), 64, 64))[0]
    assert len(seen) >= 2 and all(torch.equal(hint[0, 0], expected) for hint in seen)


@pytest.mark.parametrize("pictures", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_maps_of_a_batch_go_to_the_pictures_in_order(tiny_sd15, apply, count, pictures):
    net = control_net()
    seen = hints(net)
    batch = torch.cat([blob(16, 16, x=(i + 0.5) / count) for i in range(count)])
    run(tiny_sd15, *apply(*prompts(), net, batch), x=noise(pictures, 4, 8, 8), steps=1)
    given = seen[0].expand(2 * pictures, -1, -1, -1)[:, 0]  # both prompts at once
    resized = saliency_maps.resize(batch.numpy(), 64, 64)
    for i in range(2 * pictures):
        assert np.array_equal(given[i].numpy(), resized[i % pictures % count])


def test_why_batches_are_repeated(tiny_sd15, core_nodes):
    """The host's own way with four maps for two pictures; when this fails, `control._repeated` may go."""
    net = control_net()
    seen = hints(net)
    pictures = torch.arange(4.0)[:, None, None, None].expand(4, 64, 64, 3)
    both = core_nodes["ControlNetApplyAdvanced"]().apply_controlnet(*prompts(), net, pictures, 1.0, 0.0, 1.0)
    run(tiny_sd15, *both, x=noise(2, 4, 8, 8), steps=1)
    assert seen[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3]  # of two prompts; expected 0, 1, 0, 1


def test_strength_and_window(tiny_sd15, apply):
    net, both = control_net(), prompts()
    plain = run(tiny_sd15, *both)
    off = apply(*both, net, blob(), 0.0)
    assert off[0] is both[0] and off[1] is both[1]
    assert torch.equal(run(tiny_sd15, *off), plain)
    full = run(tiny_sd15, *apply(*both, net, blob()))
    weak = run(tiny_sd15, *apply(*both, net, blob(), 0.1))
    assert (full - plain).norm() > 2 * (weak - plain).norm() > 0.01
    late = apply(*both, net, blob(), 1.0, 0.6, 1.0)
    seen = hints(net)
    run(tiny_sd15, *late, steps=4)
    assert 0 < len(seen) < 4
    assert both == [[[both[0][0][0], {}]], [[both[1][0][0], {}]]]  # the inputs stay as they were
    assert torch.equal(run(tiny_sd15, *both), plain)


def test_other_maps_make_other_images_and_the_same_map_the_same(tiny_sd15, apply):
    net = control_net()
    first, again, other = (run(tiny_sd15, *apply(*prompts(), net, blob(x=x))) for x in (0.8, 0.8, 0.2))
    assert torch.equal(first, again)
    assert (first - other).norm() > 0.01 * first.norm()


def test_fixed_layout_both_control_nets_act_in_either_order(tiny_sd15, apply, core_nodes):
    """The saliency map chained with a layout ControlNet, of another picture."""
    layout, saliency = control_net(seed=8), control_net()
    lines = (noise(1, 128, 128, 1, seed=3) > 1).float().expand(-1, -1, -1, 3)

    def with_layout(positive, negative):
        return core_nodes["ControlNetApplyAdvanced"]().apply_controlnet(
            positive, negative, layout, lines, 0.6, 0.0, 1.0
        )

    def with_map(positive, negative):
        return apply(positive, negative, saliency, blob(128, 128), 0.8)

    shown, drawn = hints(saliency), hints(layout)
    both = run(tiny_sd15, *with_map(*with_layout(*prompts())))
    assert torch.equal(drawn[0][0], lines[0].movedim(-1, 0)) and 0.65 < shown[0].max() <= 0.7
    swapped = run(tiny_sd15, *with_layout(*with_map(*prompts())))
    assert (both - swapped).abs().max() < 1e-4 * both.abs().max()
    for alone in (with_layout(*prompts()), with_map(*prompts())):
        assert (run(tiny_sd15, *alone) - both).norm() > 0.01 * both.norm()
    elsewhere = apply(*with_layout(*prompts()), saliency, blob(128, 128, x=0.2), 0.8)
    assert (run(tiny_sd15, *elsewhere) - both).norm() > 0.01 * both.norm()  # same layout, other attention
    twice = run(tiny_sd15, *apply(*with_map(*prompts()), saliency, blob(128, 128), 0.8))
    once = run(tiny_sd15, *apply(*prompts(), saliency, blob(128, 128), 1.6))
    assert (twice - once).abs().max() < 1e-3 * once.abs().max()


def test_a_regional_prompt_of_its_own_size(tiny_sd15, apply):
    net = control_net()
    seen = hints(net)
    positive, negative = apply(*prompts(), net, blob(128, 128))
    part = [[positive[0][0], {**positive[0][1], "area": (8, 8, 0, 8), "strength": 1.0, "set_area_to_bounds": False}]]
    run(tiny_sd15, part + prompts()[0], negative, steps=1)
    assert {tuple(hint.shape[-2:]) for hint in seen} == {(64, 64), (128, 128)}


@pytest.mark.parametrize(
    ("width", "message"),
    [(768, r"Stable Diffusion 1 \(prompts 768 wide\)"), (1024, r"Stable Diffusion 2 \(prompts 1024 wide\)")],
)
def test_a_model_that_does_not_fit_is_said_in_words(apply, width, message):
    net = control_net(context_dim=2048)
    with pytest.raises(
        LimelightError, match=rf"is for SDXL \(prompts 2048 wide\), but the positive prompt .* {message}"
    ):
        apply(*prompts(width), net, blob())
    with pytest.raises(LimelightError, match="but the negative prompt was encoded"):
        apply(prompts(2048)[0], prompts(width)[1], net, blob())
    apply(*prompts(2048), net, blob())


def test_errors(apply):
    both, net = prompts(), control_net()
    with pytest.raises(LimelightError, match="control_net: found no ControlNet"):
        apply(*both, None, blob())
    with pytest.raises(LimelightError, match="control_net: found one whose hint has 9 channels"):
        apply(*both, control_net(hint_channels=9), blob())
    with pytest.raises(LimelightError, match="saliency: found a flat map"):
        apply(*both, net, torch.zeros(1, 8, 8))
    with pytest.raises(LimelightError, match="saliency: found values that are not numbers"):
        apply(*both, net, blob() * float("nan"))
    with pytest.raises(LimelightError, match="strength: found 11"):
        apply(*both, net, blob(), 11)
    with pytest.raises(LimelightError, match=r"start_percent: found 0.5, which is after end_percent 0.2"):
        apply(*both, net, blob(), 1.0, 0.5, 0.2)
    net.latent_format = object()
    with pytest.raises(LimelightError, match="vae: found nothing"):
        apply(*both, net, blob())
