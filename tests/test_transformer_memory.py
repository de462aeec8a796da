"""Memory at the shapes of Flux and Z-Image: one block with random weights, an image of 1024 x 1024, half precision."""

from __future__ import annotations

import pytest
import torch
from guided_runs import BAR, CIRCLE, bound, noise
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

MIB = 2**20
CELLS = 64 * 64
SHAPES = {  # heads, width of a head, tokens of text, length
    "Flux": (24, 128, 512, 512 + CELLS),
    "ZImage": (30, 128, 60, 64 + CELLS),
}


def real(kind: str):
    """A model of the host with one block of the released width. What comes after attention is narrow, to save time."""
    import comfy.model_patcher
    import comfy.supported_models
    from transformer_models import WIDTH, config_of

    heads, width, *_ = SHAPES[kind]
    changes = {"num_heads": heads, "hidden_size": heads * width, "axes_dim": [16, 56, 56], "mlp_ratio": 1 / 8}
    changes |= {"depth": 1, "depth_single_blocks": 0, "context_in_dim": WIDTH}
    if kind == "ZImage":
        changes = {"n_heads": heads, "n_kv_heads": heads, "dim": heads * width, "axes_dims": [32, 48, 48]}
        changes |= {"n_layers": 1, "n_refiner_layers": 0, "ffn_dim_multiplier": 1 / 32, "axes_lens": [1536, 512, 512]}
    config = getattr(comfy.supported_models, kind)(config_of(kind) | changes)
    config.unet_config = config_of(kind) | changes
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    with torch.inference_mode():
        for value in model.diffusion_model.parameters():
            value.normal_(0, 0.02) if value.ndim > 1 else value.fill_(0.1)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def peak(call) -> tuple[object, int]:
    """What a call returns, and the most memory in bytes that torch held for it at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        result = call()
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return result, most


@pytest.fixture(scope="module", params=SHAPES)
def kind(request, host):
    return request.param


def test_the_bias_takes_little_memory(kind, monkeypatch):
    from comfy.ldm.modules.attention import attention_pytorch
    from transformer_models import prompt, run

    from limelight.guidance.attention import bias, bias_joint, joint

    heads, width, tokens, length = SHAPES[kind]
    found = {}
    original, options = joint.JointAttention.__call__, bias_joint.JointRun.options

    def measured(self, _, q, k, v, heads, *args, **kwargs):
        assert (heads, q.shape, q.dtype) == (SHAPES[kind][0], (1, heads, length, width), torch.bfloat16)
        led, found["call"] = peak(lambda: original(self, attention_pytorch, q, k, v, heads, *args, **kwargs))
        found["output"] = led.numel() * led.element_size()
        return led

    def prepared(*args):
        result, found["amounts"] = peak(lambda: options(*args))
        return result

    monkeypatch.setattr(joint.JointAttention, "__call__", measured)
    monkeypatch.setattr(bias_joint.JointRun, "options", prepared)
    biased = bias.attach(real(kind), end_percent=1.0)
    run(biased, prompt(CIRCLE, BAR, tokens=tokens), noise(1, 16, 128, 128), cfg=1.0)
    assert found["call"] >= found["output"] == length * heads * width * 2
    assert 0 < found["call"] - found["output"] + found["amounts"] < 64 * MIB


class Largest(TorchDispatchMode):
    """The largest matrix, rows times columns, that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if torch.is_tensor(tensor) and tensor.ndim > 1:
                self.matrix = max(self.matrix, tensor.shape[-1] * tensor.shape[-2])
        return out


def test_maps_are_captured_without_a_matrix_of_probabilities(kind):
    from limelight.guidance.attention.joint_capture import probabilities_of

    heads, width, tokens, length = SHAPES[kind]
    columns = sorted({column for item in bound(CIRCLE, BAR)["highlights"] for column in item["tokens"]})
    q, k = (noise(1, heads, n, width, seed=n).bfloat16() for n in (CELLS, length))
    with Largest() as largest:
        maps, most = peak(lambda: probabilities_of(q, k, columns))
    assert maps.shape == (1, CELLS, len(columns))
    assert largest.matrix < CELLS * length / 30
    assert most < heads * CELLS * length * 4 / 6  # bytes: of all heads' probabilities
    rows = slice(0, 64)
    exact = (q[:, :, rows].float() @ k.float().transpose(-1, -2) * width**-0.5).softmax(-1).mean(1)[..., columns]
    assert torch.allclose(maps[:, rows], exact, atol=1e-6)
