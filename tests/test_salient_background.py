"""Salient Background and E-Commerce Inpaint: one canvas and one mask for everything, and what each odd mask means."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from guided_runs import conditioning, noise
from stand_ins import control_net, inpainting

from limelight.guidance.errors import LimelightError

WIDTH = 128  # of shapeworld's text


@pytest.fixture(scope="module")
def world(host):
    """Shapeworld: (MODEL, CLIP, VAE)."""
    from limelight.shapeworld.nodes import load

    with torch.inference_mode():
        return load()


@pytest.fixture(scope="module")
def controls(world, tmp_path_factory):
    """ControlNets for shapeworld by number of input channels, from files."""
    from safetensors.torch import save_file

    from limelight.models.inpaint_files import load_control_net

    folder, state = tmp_path_factory.mktemp("controls"), control_net(world[0].model.diffusion_model)
    found = {}
    for channels, weights in ((4, state), (9, inpainting(state))):
        save_file(weights, folder / f"{channels}.safetensors")
        with torch.inference_mode():
            found[channels] = load_control_net(folder / f"{channels}.safetensors", "control_net_name")
    return found


@pytest.fixture
def nodes(host):
    from limelight.nodes import salient_object_background

    return salient_object_background


@pytest.fixture
def prepare(nodes, world):
    """-> function (image, mask, node="LimelightSalientBackground", **inputs) -> positive, negative, latent."""

    def run(image, mask, node="LimelightSalientBackground", **inputs):
        prompts = [conditioning(width=WIDTH, seed=seed) for seed in (5, 9)]
        with torch.inference_mode():
            return getattr(nodes, node).execute(*prompts, world[2], image, mask, **inputs).result

    return run


def picture(height=64, width=64, count=1, seed=0) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def box(height=64, width=64, top=16, left=24, bottom=48, right=40, value=1.0) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = value
    return mask


def control_of(conditioning):
    return conditioning[0][1].get("control")


def test_polarity_grey_and_hint(prepare, controls, world):
    image, mask = picture(), box()
    mask[:, 15] = 0.25 * (mask[:, 16] > 0)  # a soft rim
    positive, negative, latent = prepare(image, mask, control_net=controls[9], strength=0.7, end_percent=0.8)
    grey = torch.where(mask[..., None] > 0.5, image, torch.tensor(0.5))
    for prompt in (positive, negative):
        values = prompt[0][1]
        assert torch.equal(values["concat_mask"], F.interpolate(1 - box()[:, None], scale_factor=1 / 8))
        with torch.inference_mode():
            torch.testing.assert_close(values["concat_latent_image"], world[2].encode(grey))
            torch.testing.assert_close(latent["samples"], world[2].encode(image))
    control = control_of(positive)
    assert control is control_of(negative)  # one object: the host runs both prompts together
    assert torch.equal(control.cond_hint_original, (1 - mask)[:, None].expand(-1, 3, -1, -1))
    assert (control.strength, control.timestep_percent_range) == (0.7, (0.0, 0.8))
    assert torch.equal(control.picture[0], values["concat_mask"])
    assert torch.equal(control.picture[1], values["concat_latent_image"])
    assert "noise_mask" not in latent


def test_the_hole_of_ecommerce_inpaint_is_minus_one(prepare, controls):
    image, mask = picture(), box(value=0.9999)
    positive, _, latent = prepare(image, mask, "LimelightEcomInpaint", control_net=controls[4])
    control = control_of(positive)
    hint = control.cond_hint_original.movedim(1, -1)
    assert torch.equal(hint[mask > 0], image[mask > 0]) and (hint[mask == 0] == -1).all()
    assert control.strength == 0.5 and latent["samples"].shape == (1, 4, 8, 8)
    with pytest.raises(LimelightError, match="nine input channels.*Salient Background"):
        prepare(image, mask, "LimelightEcomInpaint", control_net=controls[9])


@pytest.mark.parametrize("node", ["LimelightSalientBackground", "LimelightEcomInpaint"])
def test_keep_object_keeps_its_latent(prepare, controls, world, core_nodes, node):
    control = controls[9 if node == "LimelightSalientBackground" else 4]
    positive, negative, latent = prepare(picture(), box(), node, control_net=control, keep_object=True)
    assert torch.equal(latent["noise_mask"], 1 - box())
    with torch.inference_mode():
        sampler = core_nodes["KSampler"]()
        (found,) = sampler.sample(world[0], 3, 2, 3.0, "euler", "normal", positive, negative, latent, 1.0)
    kept = F.interpolate(box()[:, None], scale_factor=1 / 8, mode="area").expand(-1, 4, -1, -1) == 1
    torch.testing.assert_close(found["samples"][kept], latent["samples"][kept])
    assert not torch.allclose(found["samples"][~kept], latent["samples"][~kept])


def test_strength_zero_is_without_the_control_net(prepare, controls):
    for node, channels in (("LimelightSalientBackground", 9), ("LimelightEcomInpaint", 4)):
        found = prepare(picture(), box(), node, control_net=controls[channels], strength=0.0)
        plain = prepare(picture(), box(), node)
        for a, b in zip(found[:2], plain[:2], strict=True):
            assert control_of(a) is None and a[0][1].keys() == b[0][1].keys()
            assert all(torch.equal(a[0][1][key], b[0][1][key]) for key in b[0][1])


def test_almost_white_and_almost_black_are_white_and_black(prepare, controls, world, core_nodes):
    results = []
    for mask in (box(), box(value=0.9999), box(value=0.99998) + 1e-4 * (box() == 0)):
        positive, negative, latent = prepare(picture(), mask, control_net=controls[9])
        with torch.inference_mode():
            sampler = core_nodes["KSampler"]()
            results += sampler.sample(world[0], 3, 2, 3.0, "euler", "normal", positive, negative, latent, 1.0)
    for found in results[1:]:
        assert torch.equal(found["samples"], results[0]["samples"])


def test_a_half_is_painted(prepare):
    mask = box(top=0, left=0, bottom=64, right=32) + 0.5 * box(top=0, left=32, bottom=64, right=64)
    positive, *_ = prepare(picture(), mask)
    assert positive[0][1]["concat_mask"][0, 0, 0].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(1, 64, 64), "an empty one.*expected the subject"),
        (torch.full((1, 64, 64), 1e-4), "an empty one"),
        (torch.full((1, 64, 64), 0.4), "nothing above a half"),
        (torch.ones(1, 64, 64), "all white.*Invert Mask"),
        (torch.full((1, 64, 64), 0.9999), "all white"),
        (torch.cat([box(), torch.ones(1, 64, 64)]), "mask 2 of 2: found a mask that is all white"),
        (torch.cat([box(), torch.zeros(1, 64, 64)]), "mask 2 of 2: found an empty one"),
        (box(64, 48), "found 48 x 64 pixels for image of 64 x 64.*aspect ratio"),
        (box() * float("nan"), "not numbers"),
        (torch.zeros(1, 4, 64, 64, 3), "found a tensor of shape"),
        (None, "found nothing"),
    ],
)
def test_masks_that_mean_nothing(prepare, controls, mask, words):
    for node, channels in (("LimelightSalientBackground", 9), ("LimelightEcomInpaint", 4)):
        with pytest.raises(LimelightError, match=words):
            prepare(picture(), mask, node, control_net=controls[channels])


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (200, 200)])
def test_masks_of_another_size_lie_on_the_same_place(prepare, controls, size):
    height, width = size
    scale = height / 64
    mask = box(height, width, *(round(edge * scale) for edge in (16, 24, 48, 40)))
    positive, *_ = prepare(picture(), mask, control_net=controls[9])
    expected = F.interpolate(1 - box()[:, None], scale_factor=1 / 8)
    assert torch.equal(positive[0][1]["concat_mask"], expected)
    hint = control_of(positive).cond_hint_original
    assert hint.shape == (1, 3, 64, 64) and (hint[:, 0] - (1 - box())).abs().mean() < 0.03


@pytest.mark.parametrize(("height", "width"), [(61, 64), (64, 57), (70, 50)])
def test_sides_are_filled_up_and_nothing_is_cropped(prepare, controls, world, caplog, height, width):
    image, mask = picture(height, width), box(height, width)
    with caplog.at_level(logging.INFO):
        positive, _, latent = prepare(image, mask, control_net=controls[9], keep_object=True)
    tall, wide = -(-height // 8) * 8, -(-width // 8) * 8
    said = f"{wide - width} columns at the right and {tall - height} rows at the bottom"
    assert said in caplog.text and f"The result is {wide} x {tall}" in caplog.text
    assert latent["samples"].shape == (1, 4, tall // 8, wide // 8)
    hint = control_of(positive).cond_hint_original[:, 0]
    assert torch.equal(hint[:, :height, :width], 1 - mask)
    assert (hint[:, height:] == 1).all() and (hint[:, :, width:] == 1).all()  # added parts are background
    filled = F.pad(image, (0, 0, 0, wide - width, 0, tall - height), value=0.5)
    with torch.inference_mode():
        torch.testing.assert_close(latent["samples"], world[2].encode(filled))
    assert torch.equal(latent["noise_mask"][:, :height, :width], 1 - mask)


def test_sides_that_fit_are_left_alone(prepare, caplog):
    with caplog.at_level(logging.INFO):
        prepare(picture(56, 72), box(56, 72))
    assert "Limelight" not in caplog.text


@pytest.mark.parametrize("node", ["LimelightSalientBackground", "LimelightEcomInpaint"])
def test_four_products_with_four_masks_are_four_runs(prepare, controls, world, core_nodes, node):
    import comfy.sample

    control = controls[9 if node == "LimelightSalientBackground" else 4]
    images = picture(count=4)
    masks = torch.cat([box(left=left, right=left + 16, top=top) for left, top in ((0, 8), (8, 16), (32, 24), (40, 8))])
    x = noise(4, 4, 8, 8)

    def run(image, mask, start):
        positive, negative, latent = prepare(image, mask, node, control_net=control, keep_object=True)
        with torch.inference_mode():
            samples = latent["samples"]
            return comfy.sample.sample(
                world[0], start, 3, 3.0, "euler", "normal", positive, negative, samples,
                noise_mask=latent["noise_mask"], seed=0, disable_pbar=True,
            )  # fmt: skip

    together = run(images, masks, x)
    for i in range(4):
        alone = run(images[i : i + 1], masks[i : i + 1], x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=2e-4 * alone.abs().max().item())


def test_one_mask_for_many_pictures_and_one_picture_for_many_masks(prepare):
    *_, latent = prepare(picture(count=3), box())
    assert latent["samples"].shape[0] == 3
    positive, _, latent = prepare(picture(), torch.cat([box(), box(left=8)]))
    assert latent["samples"].shape[0] == positive[0][1]["concat_mask"].shape[0] == 2
    with pytest.raises(LimelightError, match="found 3 and 2 in the batches"):
        prepare(picture(count=3), torch.cat([box(), box(left=8)]))


def test_another_control_net_before_it_stays(prepare, controls, core_nodes, nodes, world):
    prompts = [conditioning(width=WIDTH, seed=seed) for seed in (5, 9)]
    first = core_nodes["ControlNetApplyAdvanced"]().apply_controlnet(*prompts, controls[4], picture(), 1.0, 0.0, 1.0)
    with torch.inference_mode():
        positive, negative, _ = nodes.LimelightSalientBackground.execute(
            *first, world[2], picture(), box(), control_net=controls[9]
        ).result
    assert control_of(positive).previous_controlnet is control_of(first[0])
    assert control_of(first[0]).previous_controlnet is None and "concat_mask" not in first[0][0][1]


def test_what_the_vae_cannot_do(nodes):
    import comfy.sd

    prompts = [conditioning(width=WIDTH, seed=seed) for seed in (5, 9)]

    ddconfig = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    ddconfig |= {"ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    with torch.inference_mode():
        wide = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": ddconfig, "embed_dim": 16}})
    for vae, words in ((None, "checkpoint has no VAE"), (wide, r"found a latent of shape \(1, 16, 8, 8\); expected")):
        with pytest.raises(LimelightError, match="vae: .*" + words):
            with torch.inference_mode():
                nodes.LimelightSalientBackground.execute(*prompts, vae, picture(), box())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"strength": 2.5}, "strength: found 2.5"),
        ({"start_percent": 0.6, "end_percent": 0.4}, "after end_percent"),
        ({"end_percent": -0.1}, "end_percent: found -0.1"),
        ({"keep_object": "yes"}, "keep_object: found 'yes'"),
    ],
)
def test_settings_out_of_range(prepare, inputs, words):
    for node in ("LimelightSalientBackground", "LimelightEcomInpaint"):
        with pytest.raises(LimelightError, match=words):
            prepare(picture(), box(), node, **inputs)
