"""Base models of trainers: the same model from a folder, from one file, and in the host."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from training_data import tiny_base, write_folder, write_shapeworld

from limelight.guidance.errors import LimelightError
from limelight.tools.in_process import host_path
from limelight.training.base import KINDS, SD1, SD2, SDXL, load

CAPTIONS = ["a red circle and a blue bar on a gray background", ""]


@pytest.fixture(scope="module")
def shapeworld(tmp_path_factory):
    return load(write_shapeworld(tmp_path_factory.mktemp("shapeworld")))


def test_shapeworld_as_a_folder_is_what_the_host_loads(shapeworld, host):
    import comfy.model_management

    from limelight.bench.sampling import load_world

    world = load_world()
    comfy.model_management.load_models_gpu([world.model])
    x, t, context = torch.randn(2, 4, 16, 12), torch.tensor([500, 20]), torch.randn(2, 77, 128)
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for caption in CAPTIONS:
            wanted = world.clip.encode_from_tokens(world.clip.tokenize(caption))
            torch.testing.assert_close(shapeworld.encode_text([caption])["context"], wanted, atol=1e-5, rtol=0)
        wanted = world.model.model.diffusion_model(x, t, context=context, transformer_options={})
        torch.testing.assert_close(shapeworld.unet(x, t, context).sample, wanted, atol=1e-5, rtol=0)
        wanted = world.model.model.latent_format.process_in(world.vae.encode(images / 255))
        found = shapeworld.latents(shapeworld.encode_images(images), None)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        pictures = world.vae.decode(world.model.model.latent_format.process_out(found)).movedim(-1, 1)
        torch.testing.assert_close(shapeworld.decode(found).clamp(0, 1), pictures, atol=1e-4, rtol=0)
        sampling = world.model.model.model_sampling
        torch.testing.assert_close((1 / (1 + sampling.sigmas**2)).float(), shapeworld.alphas_cumprod)
    assert (shapeworld.kind, shapeworld.prediction, shapeworld.scale) == (SD1, "epsilon", 8)


def test_the_inpainting_model_of_shapeworld_is_what_the_host_loads(host, tmp_path):
    import comfy.model_management

    from limelight.bench.sampling import load_world
    from limelight.shapeworld.nodes import INPAINT, WEIGHTS

    base, world = load(write_shapeworld(tmp_path, inpaint=True)), load_world(WEIGHTS, INPAINT)
    comfy.model_management.load_models_gpu([world.model])
    x, t, context = torch.randn(1, 9, 16, 16), torch.tensor([300]), torch.randn(1, 77, 128)
    with torch.inference_mode():
        wanted = world.model.model.diffusion_model(x, t, context=context, transformer_options={})
        torch.testing.assert_close(base.unet(x, t, context).sample, wanted, atol=1e-5, rtol=0)


def test_shapeworld_as_a_folder_is_a_pipeline_of_diffusers(shapeworld, tmp_path):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(write_shapeworld(tmp_path / "again"))
    wanted, _ = pipeline.encode_prompt(CAPTIONS[0], "cpu", 1, False)
    assert torch.equal(shapeworld.encode_text(CAPTIONS[:1])["context"], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_all_parts_are_frozen_and_read_back(kind, tmp_path):
    made = tiny_base(kind, prediction="v_prediction")
    base = load(write_folder(made, tmp_path))
    assert (base.kind, base.prediction) == (kind, "v_prediction")
    for part in (base.unet, base.vae, *base.text_encoders):
        assert not part.training and not any(one.requires_grad for one in part.parameters())
    text, again = made.encode_text(CAPTIONS), base.encode_text(CAPTIONS)
    assert text.keys() == again.keys() and all(torch.equal(text[name], again[name]) for name in text)
    assert made.fingerprint() == base.fingerprint() != tiny_base(kind, seed=1).fingerprint()
    told = base.conditioning({**text, "moments": torch.zeros(2, 8, 8, 6)})
    if kind == SDXL:
        assert told["added_cond_kwargs"]["time_ids"].tolist() == [[64, 48, 0, 0, 64, 48]] * 2
    output = base.unet(torch.randn(2, 4, 8, 6), torch.tensor([1, 2]), **told).sample
    assert output.isfinite().all()


def test_sdxl_text_is_that_of_diffusers(tmp_path):
    from diffusers import StableDiffusionXLPipeline

    base = tiny_base(SDXL)
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    parts = dict(zip(names, (*base.text_encoders, *base.tokenizers), strict=True))
    pipeline = StableDiffusionXLPipeline(vae=base.vae, unet=base.unet, scheduler=None, **parts)
    context, _, pooled, _ = pipeline.encode_prompt(CAPTIONS[0], device="cpu", do_classifier_free_guidance=False)
    found = base.encode_text(CAPTIONS[:1])
    assert torch.equal(found["context"], context) and torch.equal(found["pooled"], pooled)


def as_one_file(base, path):
    """By the host's tables, which are not ours."""
    import comfy.diffusers_convert as tables
    from comfy.utils import unet_to_diffusers

    config = base.unet.config
    depths = [1] * 2 if base.kind != SDXL else [0, 2]
    structure = {"num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": list(depths)}
    structure |= {"transformer_depth_output": [one for one in depths for _ in range(2)]}
    names = unet_to_diffusers(structure | {"transformer_depth_middle": max(depths)})
    assert config.layers_per_block == 1
    state = {f"model.diffusion_model.{names[key]}": value for key, value in base.unet.state_dict().items()}
    state |= {f"first_stage_model.{k}": v for k, v in tables.convert_vae_state_dict(base.vae.state_dict()).items()}
    towers = [
        {f"text_model.{key.removeprefix('text_model.')}": v for key, v in one.state_dict().items()}
        for one in base.text_encoders
    ]
    if base.kind == SD1:
        state |= {f"cond_stage_model.transformer.{key}": value for key, value in towers[0].items()}
    elif base.kind == SD2:
        last = max(int(key.split(".")[3]) for key in towers[0] if ".layers." in key)
        more = {
            key.replace(f".{last}.", f".{last + 1}."): v for key, v in towers[0].items() if f".layers.{last}." in key
        }
        state |= open_clip(towers[0] | more, "cond_stage_model.model.")
    else:
        state |= {f"conditioner.embedders.0.transformer.{key}": value for key, value in towers[0].items()}
        projection = towers[1].pop("text_model.text_projection.weight")
        prefix = "conditioner.embedders.1.model."
        state |= open_clip(towers[1], prefix) | {f"{prefix}text_projection": projection.T}
    save_file({key: value.clone().contiguous() for key, value in state.items()}, path)
    return path


def open_clip(tower, prefix):
    import comfy.diffusers_convert as tables

    made = tables.convert_text_enc_state_dict_v20({f"transformer.{key}": value for key, value in tower.items()})
    return {prefix + key: value for key, value in made.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_is_the_same_model(kind, host, tmp_path):
    made = tiny_base(kind, single=True)
    tokenizer = host_path() / "comfy" / "sd1_tokenizer"
    base = load(as_one_file(made, tmp_path / "model.safetensors"), tokenizer=str(tokenizer))
    assert base.kind == kind and base.prediction == "epsilon"
    torch.testing.assert_close(base.alphas_cumprod, made.alphas_cumprod)
    for ours, theirs in zip(
        (base.unet, base.vae, *base.text_encoders), (made.unet, made.vae, *made.text_encoders), strict=True
    ):
        state = theirs.state_dict()
        assert ours.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    assert base.vae.config.scaling_factor == (0.13025 if kind == SDXL else 0.18215)
    assert [tokenizer.pad_token_id for tokenizer in base.tokenizers] == {SD1: [49407], SD2: [0], SDXL: [49407, 0]}[kind]
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([10])
    told = made.conditioning({**made.encode_text(CAPTIONS[:1]), "moments": torch.zeros(1, 8, 8, 8)})
    assert torch.equal(base.unet(x, t, **told).sample, made.unet(x, t, **told).sample)


def test_a_single_file_without_a_tokenizer_says_where_to_find_one(host, tmp_path):
    path = as_one_file(tiny_base(SD1, single=True), tmp_path / "model.safetensors")
    with pytest.raises(LimelightError, match="--tokenizer: found no tokenizer at .*nowhere.*sd1_tokenizer"):
        load(path, tokenizer=str(tmp_path / "nowhere"))


def test_what_is_no_base_model(tmp_path):
    with pytest.raises(LimelightError, match="found no model at .*Expected a folder of diffusers"):
        load(tmp_path / "nothing")
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "unet.safetensors")
    with pytest.raises(LimelightError, match="unet.safetensors has no VAE and no text encoder"):
        load(tmp_path / "unet.safetensors")
    save_file({"lora.x": torch.zeros(1)}, tmp_path / "lora.ckpt")
    with pytest.raises(LimelightError, match="lora.ckpt; expected a .safetensors"):
        load(tmp_path / "lora.ckpt")
    folder = write_folder(tiny_base(), tmp_path / "folder")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "cross_attention_dim": 32}))
    with pytest.raises(LimelightError, match="not a whole Stable Diffusion|takes prompts of width 32"):
        load(folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(LimelightError, match="not a whole Stable Diffusion model"):
        load(folder)
