"""Fixtures: the real host in this process, and small random models built from its own classes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from limelight.tools.in_process import ROOT, host_path, import_host
from limelight.tools.server import HostServer

CONTEXT = 64  # width of the tiny text encoder and of the tiny UNet's cross-attention

TINY_SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": CONTEXT,
    "num_heads": 4,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}

TINY_CLIP_L = {
    "hidden_size": CONTEXT,
    "intermediate_size": 2 * CONTEXT,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "projection_dim": CONTEXT,
}
TINY_CLIP_G = {**TINY_CLIP_L, "hidden_size": 96, "intermediate_size": 192, "projection_dim": 96}


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """The host's modules, imported on the CPU: `import comfy...` works afterwards. -> namespace with `path`, `base`."""
    base = tmp_path_factory.mktemp("host")
    for folder in ("custom_nodes", "input", "models"):
        (base / folder).mkdir()
    return SimpleNamespace(path=import_host(base), base=base)


@pytest.fixture(scope="session")
def core_nodes(host):
    """Every stock node class of the host (nodes.py and comfy_extras) by id: `core_nodes["KSampler"]`."""
    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    return nodes.NODE_CLASS_MAPPINGS


def random_weights(module, seed: int, gain: float = 1.0) -> None:
    """Fill `module` with inference tensors, as the host loads weights inside a prompt.

    Matrices and kernels are normal with variance gain^2 / fan-in, so that no layer is zero (the host's own start values
    leave proj_out at zero, which would make a test blind to what attention does) and activations stay near unit size.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    state = {}
    with torch.inference_mode():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                state[name] = value.clone()
            elif name.endswith(("position_embedding.weight", "token_embedding.weight")):
                state[name] = torch.randn(value.shape, generator=generator)
            elif value.ndim > 1:
                noise = torch.randn(value.shape, generator=generator)
                state[name] = noise * (gain / value[0].numel() ** 0.5)
            elif name.endswith("weight"):
                state[name] = torch.ones(value.shape)
            else:
                state[name] = torch.zeros(value.shape)
        for name, value in state.items():
            owner = module.get_submodule(name.rpartition(".")[0]) if "." in name else module
            leaf = name.rpartition(".")[2]
            if leaf in owner._parameters:
                owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[leaf] = value


@pytest.fixture(scope="session")
def make_sd15(host):
    """-> function (seed=0, **unet_config changes) -> a new ModelPatcher around an SD1.5-kind UNet with random weights.

    Attention at 1x, 1/2 and 1/4 of the latent's size in the input, middle and output blocks; context width 64.
    """
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    def make(seed: int = 0, **changes):
        unet_config = {**TINY_SD15, **changes}
        config = comfy.supported_models.SD15(dict(unet_config))
        config.unet_config = dict(unet_config)  # the class itself would force 8 heads
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device=torch.device("cpu"))
        random_weights(model.diffusion_model, seed)
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        return patcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))

    return make


@pytest.fixture
def tiny_sd15(make_sd15):
    """A new tiny SD1.5-kind MODEL of the host; the same random weights each time."""
    return make_sd15()


@pytest.fixture(scope="session")
def clip_l(host):
    """A host CLIP of the SD1 kind: the real tokenizer, a tiny random text model (conditioning width 64)."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    return _random_clip(comfy.sd.CLIP(target, model_options={"clip_l_model_config": TINY_CLIP_L}))


@pytest.fixture(scope="session")
def clip_sdxl(host):
    """A host CLIP of the SDXL kind: both real tokenizers, two tiny random towers (conditioning width 64 + 96)."""
    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models_base

    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    options = {"clip_l_model_config": TINY_CLIP_L, "clip_g_model_config": TINY_CLIP_G}
    return _random_clip(comfy.sd.CLIP(target, model_options=options))


def _random_clip(clip):
    random_weights(clip.cond_stage_model, seed=1)
    return clip


@pytest.fixture(scope="session")
def server():
    """The real host as a process of its own, the pack and the shapeworld loader in its custom nodes. -> HostServer.

    `server.url`; `server.client.run_workflow(graph)` -> history entry; `server.client.images(entry)` -> PNG bytes.
    """
    with HostServer(Path(sys.executable), host_path(), base=ROOT / ".cache" / "test-base") as running:
        yield running


@pytest.fixture(scope="session")
def skip_or_fail():
    """-> function (reason): skips the test for want of a tool; in CI, where every tool must be there, it fails."""

    def act(reason: str):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return act
