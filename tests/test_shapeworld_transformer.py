"""Shapeworld's transformer: trained as the host will run it, loaded from its own file, measured by the bench."""

from __future__ import annotations

import pytest
import shapeworld_folder
import torch

CAPTIONS = ("", "a red circle on a gray background", "a red bar, a blue bar and a green circle on a white background")


@pytest.fixture(scope="module")
def trained(host, tmp_path_factory):
    """The trainer's folder after two steps, the second taken up again; the host's (MODEL, CLIP, VAE)."""
    from safetensors.torch import save_file

    from limelight.bench.sampling import load_transformer_world
    from limelight.shapeworld import export
    from limelight.shapeworld.transformer import train_transformer

    work = tmp_path_factory.mktemp("transformer")
    shapeworld_folder.write(work, host.path)
    shown: list[torch.Tensor] = []
    options = (2, 3e-2, host.path / "comfy" / "sd1_tokenizer", 100, False, lambda _, draw: shown.append(draw(["", ""])))
    for steps in (1, 2):
        train_transformer(work, steps, *options)
    assert [tuple(pictures.shape) for pictures in shown] == [(4, 3, 128, 128)] * 2
    tensors, metadata = export.transformer(work)
    save_file(tensors, work / "own.safetensors", metadata)
    return work, load_transformer_world(work / "own.safetensors", work / "shapeworld.safetensors")


def test_training_can_be_taken_up_again(trained):
    work, _ = trained
    assert torch.load(work / "transformer.pt", weights_only=True)["step"] == 2


def test_captions_of_all_lengths_in_a_batch_are_what_the_host_makes_of_each_alone(trained, host):
    """The trainer pads captions to one length by the network's own padding tokens, the host each by itself."""
    import comfy.model_management
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    from limelight.bench.sampling import encode
    from limelight.shapeworld.networks import Vocabulary
    from limelight.shapeworld.transformer import TOKENS, Forward, build_transformer, lengths_of

    work, world = trained
    comfy.model_management.load_models_gpu([world.model])
    network = build_transformer().eval()
    network.load_state_dict(load_file(work / "transformer.safetensors"))
    network.half().float()
    rows = Vocabulary(host.path / "comfy" / "sd1_tokenizer").encode(list(CAPTIONS))
    x, sigma = torch.randn(3, 4, 16, 16), torch.tensor([0.9, 0.5, 0.1])
    with torch.inference_mode():
        text = CLIPTextModel.from_pretrained(work / "text_encoder").eval()
        states = text(rows[:, :TOKENS]).last_hidden_state
        forward = Forward(network, compiled=False)
        expected = forward(x, sigma, states, lengths_of(rows))
        alone = [encode(world.clip, caption)[0][0] for caption in CAPTIONS]
        actual = [
            world.model.model.diffusion_model(x[i : i + 1], sigma[i : i + 1], context, context.shape[1])
            for i, context in enumerate(alone)
        ]
    assert [context.shape[1] for context in alone] == lengths_of(rows).tolist() == [2, 9, 17]
    torch.testing.assert_close(torch.cat(actual), expected, atol=1e-4, rtol=1e-4)
    assert [tuple(maps.shape) for maps in forward.maps] == [(3, 256, TOKENS)] * len(network.layers)


def test_blocks_begin_as_the_identity(host):
    from limelight.shapeworld.transformer import build_transformer

    torch.manual_seed(0)
    network = build_transformer()
    assert torch.equal(
        network(torch.randn(1, 4, 16, 16), torch.ones(1), torch.randn(1, 5, 128), 5), torch.zeros(1, 4, 16, 16)
    )
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_bench_has_every_row(trained, monkeypatch):
    from limelight.bench import placement, placement_dit
    from limelight.bench.prompts import two_object_prompts

    monkeypatch.setattr("limelight.bench.sampling.STEPS", 2)
    _, world = trained
    rows = list(placement_dit.ROWS)
    found = placement.prompt_scores(world, 0, two_object_prompts(0, 1)[0], 0, rows)
    named = {row["row"]: row for row in placement.summaries(rows, [found])}
    assert list(named)[:4] == ["unguided", "bias", "limelight", "bias+limelight"]
    assert all(0 <= row["hit"] <= row["presence"] <= 1 for row in named.values())
