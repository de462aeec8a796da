"""Shapeworld's networks in the host are those that diffusers trained: same numbers on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import shapeworld_folder
import torch

from limelight.shapeworld.scenes import COLOURS, SHAPES, Scene, Thing, caption, random_scene, render

PROMPT = "a red circle and a blue bar on a gray background"


@pytest.fixture(scope="module")
def networks(host, tmp_path_factory):
    """The trainer's networks by name, the vocabulary, the host's (MODEL, CLIP, VAE), the trainer's folder."""
    from limelight.bench.sampling import load_world
    from limelight.shapeworld.networks import Vocabulary

    work = tmp_path_factory.mktemp("shapeworld")
    ours = shapeworld_folder.write(work, host.path)
    vocabulary = Vocabulary(host.path / "comfy" / "sd1_tokenizer")
    return ours, vocabulary, load_world(work / "shapeworld.safetensors"), work


def test_text_encoder_equals_transformers(networks):
    ours, vocabulary, world, _ = networks
    with torch.inference_mode():
        expected = ours["text_encoder"](vocabulary.encode([PROMPT])).last_hidden_state
        actual = world.clip.encode_from_tokens(world.clip.tokenize(PROMPT))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_unet_equals_diffusers(networks):
    import comfy.model_management

    ours, _, world, _ = networks
    comfy.model_management.load_models_gpu([world.model])
    x, t, context = torch.randn(2, 4, 16, 12), torch.tensor([500, 20]), torch.randn(2, 77, 128)
    with torch.inference_mode():
        expected = ours["unet"](x, t, context).sample
        actual = world.model.model.diffusion_model(x, t, context=context, transformer_options={})
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_vae_equals_diffusers(networks):
    ours, _, world, _ = networks
    image = torch.rand(1, 64, 96, 3)
    with torch.inference_mode():
        expected = ours["vae"].encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mean
        latent = world.vae.encode(image)
        torch.testing.assert_close(latent, expected, atol=1e-5, rtol=0)
        decoded = ours["vae"].decode(expected).sample.movedim(1, -1)
        torch.testing.assert_close(world.vae.decode(latent), (decoded / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)


def test_training_can_go_on_from_the_exported_file(networks, host, tmp_path):
    from limelight.shapeworld import export

    _, _, _, work = networks
    export.restore(work / "shapeworld.safetensors", tmp_path, host.path)
    before, after = (export.checkpoint(folder, host.path)[0] for folder in (work, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_whitening_keeps_the_autoencoder(host):
    from limelight.shapeworld.networks import SCALING, build_vae, whiten_latents

    torch.manual_seed(0)
    vae = build_vae().eval()
    images = torch.rand(32, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        whiten_latents(vae, images)
        latents = vae.encode(images).latent_dist.mean
        after = vae.decode(latents).sample
    flat = (latents * SCALING).permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(flat), torch.eye(4), atol=1e-2, rtol=0)


def test_scenes_are_exact():
    circle = Thing("circle", "red", 0.5, 0.5, 0.2)
    bar = Thing("bar", "blue", 0.25, 0.75, 0.2, 0.1, np.pi / 6)
    image, masks = render(Scene((circle, bar), "gray"), side=256)
    assert masks[0].mean() == pytest.approx(np.pi * 0.2**2, rel=0.01)
    assert masks[1].mean() == pytest.approx(0.4 * 0.1, rel=0.02)
    assert tuple(image[128, 128]) == COLOURS["red"]
    assert tuple(image[0, 0]) == (128, 128, 128)


def test_random_scenes_do_not_overlap():
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = random_scene(rng)
        _, masks = render(scene)
        assert (masks.sum(0) <= 1).all()
        assert all(thing.shape in SHAPES and thing.colour in COLOURS for thing in scene.things)


def test_captions():
    assert caption(["red circle"], "gray") == "a red circle on a gray background"
    assert caption(["red bar", "blue bar", "green circle"], "white") == (
        "a red bar, a blue bar and a green circle on a white background"
    )


def test_recording_attention_changes_nothing():
    from limelight.shapeworld.grounding import record
    from limelight.shapeworld.networks import build_unet

    torch.manual_seed(0)
    unet = build_unet().eval()
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([500, 20]), torch.randn(2, 77, 128)
    with torch.no_grad():
        expected = unet(x, t, context).sample
        maps = record(unet)
        torch.testing.assert_close(unet(x, t, context).sample, expected, atol=1e-5, rtol=0)
    assert {tuple(each.shape) for each in maps} == {(2, 256, 77), (2, 64, 77)}
    assert all(torch.allclose(each.sum(-1), torch.ones(())) for each in maps)


def test_grounding_loss_compares_words_with_masks():
    from limelight.shapeworld.grounding import grounding_loss

    mask = torch.zeros(1, 3, 16, 16)
    mask[0, 0, 4:8, 4:8] = 1
    columns = torch.tensor([[2, -1, -1]])
    perfect = torch.zeros(1, 256, 77)
    perfect[0, :, 0] = 1 - mask[0, 0].flatten()
    perfect[0, :, 2] = perfect[0, :, 3] = mask[0, 0].flatten() / 2
    flat = torch.full((1, 256, 77), 1 / 77)
    assert grounding_loss([perfect], mask, columns) < 0.01 < grounding_loss([flat], mask, columns)
