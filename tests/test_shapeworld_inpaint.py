"""Shapeworld's inpainting UNet: trained on what the host feeds it, stored as what it has of its own, loaded as one."""

from __future__ import annotations

import numpy as np
import pytest
import shapeworld_folder
import torch

from limelight.shapeworld.holes import KINDS, random_hole
from limelight.shapeworld.scenes import SIDE, random_scene, render

STEPS = 2


@pytest.fixture(scope="module")
def trained(host, tmp_path_factory):
    """The trainer's folder after a step, and another after taking it up again; the file of the base."""
    from limelight.shapeworld.inpaint import train_inpaint

    work, tokenizer = tmp_path_factory.mktemp("inpaint"), host.path / "comfy" / "sd1_tokenizer"
    shapeworld_folder.write(work, host.path)
    for steps in range(1, STEPS + 1):
        train_inpaint(work, steps, 2, 3e-2, tokenizer, 100)
    return work, work / "shapeworld.safetensors"


def test_training_can_be_taken_up_again(trained):
    work, _ = trained
    assert torch.load(work / "inpaint.pt", weights_only=True)["step"] == STEPS


def test_the_file_holds_what_training_has_changed_and_the_host_loads_it(trained, host):
    import comfy.model_management
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    from limelight.bench.sampling import load_world
    from limelight.shapeworld import export

    work, base = trained
    tensors, metadata = export.inpainting(work, host.path, base)
    assert "model.diffusion_model.input_blocks.0.0.weight" in tensors
    assert not [name for name in tensors if ".attn2." in name or "middle_block" in name]
    save_file(tensors, work / "own.safetensors", metadata)
    world = load_world(base, work / "own.safetensors")
    comfy.model_management.load_models_gpu([world.model])
    unet = UNet2DConditionModel.from_pretrained(work / "unet_inpaint").half().float().eval()
    x, t, context = torch.randn(2, 9, 16, 12), torch.tensor([500, 20]), torch.randn(2, 77, 128)
    with torch.inference_mode():
        expected = unet(x, t, context).sample
        actual = world.model.model.diffusion_model(x, t, context=context, transformer_options={})
    assert float((actual - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert world.model.model.concat_keys == ("mask", "masked_image")


def test_the_trainer_and_the_host_make_the_same_channels(trained, core_nodes):
    from limelight.bench.sampling import encode, load_world
    from limelight.shapeworld.data import to_unit
    from limelight.shapeworld.inpaint import masked_input
    from limelight.shapeworld.networks import AutoencoderKL

    work, base = trained
    rng = np.random.default_rng(0)
    picture, objects = render(random_scene(rng))
    hole = torch.from_numpy(random_hole(rng, objects, "background"))[None].float()
    world = load_world(base)
    with torch.inference_mode():
        sides = [encode(world.clip, text) for text in ("a red circle on a gray background", "")]
        pixels = torch.from_numpy(picture)[None].float() / 255
        positive, _, _ = core_nodes["InpaintModelConditioning"]().encode(*sides, pixels, world.vae, hole)
        world.model.model.set_inpaint()
        noise = torch.zeros(1, 4, 16, 16)
        given = world.model.model.concat_cond(noise=noise, device="cpu", **positive[0][1])
        vae = AutoencoderKL.from_pretrained(work / "vae").eval()
        expected = masked_input(to_unit(picture[None]), hole[:, None], vae)
    assert torch.equal(given[:, 0], expected[:, 0])
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)


def test_new_channels_change_nothing_at_first():
    from limelight.shapeworld.networks import build_unet, widened

    torch.manual_seed(0)
    unet = build_unet().eval()
    x, t, context = torch.randn(1, 9, 16, 16), torch.tensor([300]), torch.randn(1, 77, 128)
    with torch.no_grad():
        wide, narrow = widened(unet, 9).eval()(x, t, context).sample, unet(x[:, :4], t, context).sample
    torch.testing.assert_close(wide, narrow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_holes(kind):
    rng = np.random.default_rng(1)
    for _ in range(20):
        _, objects = render(random_scene(rng))
        hole = random_hole(rng, objects, kind)
        assert hole.shape == (SIDE, SIDE) and set(np.unique(hole)) <= {0, 1} and hole.any()
        assert (hole == 0).any() is not np.bool_(kind == "everything")
        if kind == "background":
            assert (objects.max(0)[hole == 0] > 0.5).all()
        if kind == "object":
            assert any((hole[thing > 0.5] == 1).all() for thing in objects)


def test_every_kind_of_hole_is_drawn():
    rng = np.random.default_rng(2)
    _, objects = render(random_scene(rng))
    shares = [float(random_hole(rng, objects).mean()) for _ in range(100)]
    assert min(shares) < 0.3 and max(shares) == 1
    assert sum(KINDS.values()) == pytest.approx(1)
