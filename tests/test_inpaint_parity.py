"""A run of the stock sampler with what our loaders and our node make is the published method, step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from guided_runs import noise
from inpaint_weights import SD2, SMALL, control_net, unet

STEPS, SCALE, STRENGTH, SEED = 8, 7.5, 0.8, 11
SIDE = 64
SCALING = 0.18215


@pytest.fixture(scope="module")
def vae(host):
    from limelight.shapeworld.nodes import load

    return load()[2]


@pytest.fixture(scope="module")
def control():
    torch.manual_seed(1)
    return control_net(**{**SD2, **SMALL})


@pytest.fixture(scope="module", params=[9, 4], ids=["inpainting model", "ordinary model"])
def base(request):
    torch.manual_seed(2)
    return unet(**{**SD2, **SMALL, "in_channels": request.param})


@pytest.fixture
def product():
    """A picture and the mask of its subject, white = keep, with soft edges."""
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(4))
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return image, torch.sigmoid((20 - ((x - 30) ** 2 + (y - 36.0) ** 2).sqrt()) / 2)[None]


def test_the_sampler_equals_a_loop_over_diffusers_modules(tmp_path, core_nodes, base, control, vae, product):
    from limelight.models import inpaint_files, inpaint_layouts
    from limelight.nodes.salient_object_background import LimelightSalientBackground

    control.save_pretrained(tmp_path / "controlnet")
    base.save_pretrained(tmp_path / "unet")
    file = "diffusion_pytorch_model.safetensors"
    contexts = noise(1, 77, 1024, seed=6), noise(1, 77, 1024, seed=7)
    with torch.inference_mode():
        loaded = inpaint_files.load_control_net(tmp_path / "controlnet" / file, "control_net_name")
        if base.config.in_channels == 9:
            model = inpaint_files.load_model(tmp_path / "unet" / file, "model_name")
        else:
            import comfy.sd

            model = comfy.sd.load_diffusion_model_state_dict(inpaint_layouts.to_original(base.state_dict(), "base"))
        prompts = [[[context, {}]] for context in contexts]
        positive, negative, latent = LimelightSalientBackground.execute(
            *prompts, vae, *product, strength=STRENGTH, control_net=loaded
        ).result
        (found,) = core_nodes["KSampler"]().sample(
            model, SEED, STEPS, SCALE, "euler", "normal", positive, negative, latent, 1.0
        )
        expected = published_loop(base, control, vae, contexts, *product, sigmas_of(model))
        without = published_loop(base, control, vae, contexts, *product, sigmas_of(model), strength=0.0)
    largest = expected.abs().max()
    torch.testing.assert_close(found["samples"], expected, rtol=0, atol=1e-4 * largest.item())
    assert (without - expected).abs().max() > 0.05 * largest  # the ControlNet is felt


def sigmas_of(model) -> torch.Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)


def published_loop(base, control, vae, contexts, image, subject, sigmas, strength=STRENGTH):
    """The published pipeline's steps, with Euler's method and the mode of the masked latent. -> latent, unscaled"""
    from diffusers import DDPMScheduler

    alphas = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    table = ((1 - alphas) / alphas).sqrt()
    paint = 1 - subject[:, None]  # ImageOps.invert
    mask = (paint >= 0.5).float()
    masked = (image.movedim(-1, 1) * 2 - 1) * (mask < 0.5)
    masked_latent = vae.encode(masked.movedim(1, -1) / 2 + 0.5) * SCALING
    given = torch.cat([F.interpolate(mask, scale_factor=1 / 8), masked_latent], 1)
    hint = paint.expand(-1, 3, -1, -1)
    noise = torch.randn(masked_latent.shape, generator=torch.manual_seed(SEED))
    x = noise * (1 + sigmas[0] ** 2) ** 0.5 + vae.encode(image) * SCALING
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        scaled = x / (sigma**2 + 1) ** 0.5
        t = (table - sigma).abs().argmin()
        wide = torch.cat([scaled, given], 1)
        predictions = []
        for context in contexts:
            down, middle = control(wide, t, context, hint, conditioning_scale=strength, return_dict=False)
            inputs = wide if base.config.in_channels == 9 else scaled
            predictions.append(
                base(
                    inputs, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
                ).sample
            )
        epsilon = predictions[1] + SCALE * (predictions[0] - predictions[1])
        x = x + epsilon * (following - sigma)
    return x / SCALING
