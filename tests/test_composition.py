"""Everything at once: an attention-replacing pack, a ControlNet with an effect mask, a LoRA hook and a regional prompt,
together with guidance and bias. Each acts, none errs, nothing stays."""

from __future__ import annotations

import itertools

import pytest
import torch
from foreign_models import control_net
from guided_runs import BAR, CIRCLE, EVERYWHERE, conditioning, lora_hook, noise, sample, untouched
from guided_runs import attach as guide

from limelight.guidance.attention import bias
from limelight.guidance.attention.architectures.unet import all_blocks

PARTS = ("adapter", "control", "lora", "region", "bias", "guidance")
SIZE = (16, 16)


def adapter(model, weight: float = 0.6, seed: int = 11):
    """An image prompt as IP-Adapter packs patch it in: attention to the text as usual, and in the conditional rows the
    attention to a few image tokens added to it, one replacement of attn2 a block."""
    generator = torch.Generator().manual_seed(seed)

    def replacement(width: int):
        tokens = torch.randn(2, 4, width, generator=generator)  # keys and values of four image tokens

        def patch(q, k, v, extra):
            from comfy.ldm.modules.attention import optimized_attention

            out = optimized_attention(q, k, v, extra["n_heads"])
            parts = []
            for which, rows in zip(extra["cond_or_uncond"], q.chunk(len(extra["cond_or_uncond"])), strict=True):
                own, values = (t.to(rows).expand(len(rows), -1, -1) * float(which == 0) for t in tokens)
                parts.append(optimized_attention(rows, own, values, extra["n_heads"]))
            return out + weight * torch.cat(parts)

        return patch

    model, network = model.clone(), model.model.diffusion_model
    for block in all_blocks(network, *SIZE):
        name, number, index = block.key
        layers = network.middle_block if name == "middle" else getattr(network, f"{name}_blocks")[number]
        transformer = next(layer for layer in layers if hasattr(layer, "transformer_blocks"))
        width = transformer.transformer_blocks[index].attn2.to_q.weight.shape[0]
        model.set_model_attn2_replace(replacement(width), name, number, index)
    return model


def masked_control(model):
    """The host's ControlNet, acting in the left half of the image only."""
    import comfy.controlnet

    class Masked(comfy.controlnet.ControlNet):
        def control_merge(self, control, previous, output_dtype):
            merged = super().control_merge(control, previous, output_dtype)
            return {place: [_left(tensor) for tensor in tensors] for place, tensors in merged.items()}

    control = control_net(model, torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2)))
    masked = Masked(control.control_model, load_device=torch.device("cpu"))
    return masked.set_cond_hint(control.cond_hint_original, 1.0, (0.0, 1.0))


def _left(tensor):
    if tensor is None:
        return None
    mask = torch.zeros_like(tensor)
    mask[..., : tensor.shape[-1] // 2] = 1
    return tensor * mask


def positive(model, parts) -> list:
    main = {}
    if "control" in parts:
        main |= {"control": masked_control(model), "control_apply_to_uncond": False}
    if "lora" in parts:
        main["hooks"] = lora_hook(model)
    entries = conditioning(CIRCLE, BAR, **main)
    if "region" in parts:
        entries += conditioning(BAR, seed=6, area=(16, 8, 0, 8), strength=0.8)
    return entries


def run(model, parts, order=("adapter", "bias", "guidance")) -> torch.Tensor:
    """A sampling run with these parts; the nodes on the model in this order."""
    wanted = positive(model, parts)
    nodes = {
        "adapter": adapter,
        "bias": lambda model: bias.attach(model, **EVERYWHERE),
        "guidance": lambda model: guide(model, updates=1, separation=0.5),
    }
    for name in order:
        if name in parts:
            model = nodes[name](model)
    return sample(model, wanted, noise(1, 4, *SIZE), steps=2)


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(b.isfinite().all()) and not torch.allclose(a, b, atol=1e-3 * float(a.abs().max()))


@pytest.mark.parametrize("without", PARTS)
def test_each_part_acts_and_nothing_stays(tiny_sd15, without):
    plain, before = run(tiny_sd15, ()), untouched(tiny_sd15)
    everything = run(tiny_sd15, PARTS)
    assert differ(everything, run(tiny_sd15, [part for part in PARTS if part != without]))
    assert differ(plain, run(tiny_sd15, [without]))
    assert torch.equal(plain, run(tiny_sd15, ()))
    assert untouched(tiny_sd15) == before


def test_the_order_of_the_nodes_does_not_matter(tiny_sd15):
    first = run(tiny_sd15, PARTS)
    for order in itertools.permutations(("adapter", "bias", "guidance")):
        again = run(tiny_sd15, PARTS, order)
        assert torch.allclose(first, again, atol=1e-4 * float(first.abs().max())), order


@pytest.mark.parametrize("last", [True, False])
def test_a_record_of_everything_changes_no_bit(tiny_sd15, last):
    from limelight.guidance.attention import record

    expected = run(tiny_sd15, PARTS)
    steps = [lambda model: adapter(model), lambda model: bias.attach(model, **EVERYWHERE)]
    steps.append(lambda model: guide(model, updates=1, separation=0.5))
    wanted, model, recording = positive(tiny_sd15, PARTS), tiny_sd15, None
    if not last:
        model, recording = record.attach(model)
    for step in steps:
        model = step(model)
    if last:
        model, recording = record.attach(model)
    assert torch.equal(sample(model, wanted, noise(1, 4, *SIZE), steps=2), expected)
    assert [step.index for step in recording.steps] == [0, 1]
    assert [highlight.highlight.phrase for highlight in recording.highlights] == [CIRCLE[0], BAR[0], BAR[0]]


def test_guidance_sees_attention_without_the_bias(tiny_sd15, monkeypatch):
    """Else it would hold highlights for satisfied that the bias keeps up, and leave the latent as it is."""
    from limelight.guidance.attention.capture import Capture

    made, create = [], Capture.__init__

    def keep(self, *args, **kwargs):
        create(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Capture, "__init__", keep)
    guided = guide(tiny_sd15)
    for model in (guided, bias.attach(guided, self_strength=0.0, **EVERYWHERE)):
        sample(model, conditioning(CIRCLE, BAR), noise(1, 4, *SIZE), steps=1)
    plain, biased = (capture.seen.cross for capture in (made[0], made[len(made) // 2]))
    assert list(plain) == list(biased)
    first, *later = plain
    assert torch.allclose(plain[first], biased[first], atol=1e-6)  # nothing before it is biased
    assert not any(torch.allclose(plain[key], biased[key], atol=1e-6) for key in later)
