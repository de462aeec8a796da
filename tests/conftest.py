"""Fixtures: the real host in this process, and small random models built from its own classes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from stand_ins import STAND_IN
from stand_ins import write as write_stand_ins

from limelight.bench.random_unet import SD15, SDXL
from limelight.bench.workflow import copy_product
from limelight.tools.in_process import ROOT, host_path, import_host, wait_for
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


# The published block structures, narrow; widths of the text towers as in the tiny encoders below.
NARROW_SD15 = SD15 | {"model_channels": 32, "context_dim": CONTEXT}
NARROW_SD2 = NARROW_SD15 | {"num_heads": -1, "num_head_channels": 16, "use_linear_in_transformer": True}
NARROW_SDXL = SDXL | {
    "model_channels": 32,
    "num_head_channels": 16,
    "context_dim": CONTEXT + TINY_CLIP_G["hidden_size"],
    "adm_in_channels": TINY_CLIP_G["projection_dim"] + 6 * 256,
}
STRUCTURES = {"SD15": NARROW_SD15, "SD20": NARROW_SD2, "SDXL": NARROW_SDXL}


def pytest_collection_modifyitems(items) -> None:
    """The browser last: what fails without one is known sooner."""
    items.sort(key=lambda item: "browser" in item.path.parts)


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """The host's modules, imported on the CPU: `import comfy...` works afterwards. -> namespace with `path`, `base`."""
    path = import_host(tmp_path_factory.mktemp("host"))
    import folder_paths

    base = Path(folder_paths.base_path)  # another one where a test has imported the host before
    for folder in ("custom_nodes", "input", "models"):
        (base / folder).mkdir(exist_ok=True)
    return SimpleNamespace(path=path, base=base)


@pytest.fixture(scope="session")
def core_nodes(host):
    """Every stock node class of the host (nodes.py and comfy_extras) by id: `core_nodes["KSampler"]`."""
    import nodes

    wait_for(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
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
def make_unet(host):
    """-> function (kind: the host's class, "SD15", "SD20" or "SDXL", seed=0, weights={}, **changes) -> a new
    ModelPatcher around a narrow UNet of the published block structure, with random weights.

    changes: of the UNet's settings. weights: entries of the checkpoint that the host's class looks at.
    """
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    def make(kind: str, seed: int = 0, weights: dict | None = None, **changes):
        unet_config = {**STRUCTURES[kind], **changes}
        config = getattr(comfy.supported_models, kind)(dict(unet_config))
        config.unet_config |= unet_config  # the class forces a number of heads
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(weights or {}, "", device=torch.device("cpu"))
        random_weights(model.diffusion_model, seed)
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        return patcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def sd15(make_unet):
    """A MODEL with the block structure of Stable Diffusion 1.5, narrow."""
    return make_unet("SD15")


@pytest.fixture(scope="session")
def sd2(make_unet):
    """The same of Stable Diffusion 2."""
    return make_unet("SD20")


@pytest.fixture(scope="session")
def sdxl(make_unet):
    """The same of SDXL."""
    return make_unet("SDXL")


@pytest.fixture(scope="session")
def make_sd15(make_unet):
    """-> function (seed=0, **unet_config changes) -> a new ModelPatcher around an SD1.5-kind UNet with random weights.

    Smaller than the published structure: attention at 1x, 1/2 and 1/4 of the latent's size in the input, middle and
    output blocks; context width 64.
    """
    return lambda seed=0, **changes: make_unet("SD15", seed, **{**TINY_SD15, **changes})


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


@pytest.fixture(scope="session")
def clip_sd2(host):
    """A host CLIP of the SD2 kind: OpenCLIP's tokenizer (padded with zeros), a tiny random tower (width 64)."""
    import comfy.sd
    import comfy.supported_models_base
    from comfy.text_encoders import sd2_clip

    target = comfy.supported_models_base.ClipTarget(sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel)
    return _random_clip(comfy.sd.CLIP(target, model_options={"clip_h_model_config": TINY_CLIP_L}))


def _random_clip(clip):
    random_weights(clip.cond_stage_model, seed=1)
    return clip


@pytest.fixture(scope="session")
def server(host):
    """The real host as a process of its own, the pack and the shapeworld loader in its custom nodes. -> HostServer.

    `server.url`; `server.client.run_workflow(graph)` -> history entry; `server.client.images(entry)` -> PNG bytes.
    Its models folder has ControlNets and a GLIGEN, STAND_IN, with random weights, and its input folder a picture.
    """
    base = ROOT / ".cache" / "test-base"
    write_stand_ins(base / "models", STAND_IN)
    copy_product(base)
    with HostServer(Path(sys.executable), host_path(), base=base) as running:
        yield running


@pytest.fixture
def calls(host, monkeypatch):
    """Every call of attention that is made for a bias: (q, k, heads, mask)."""
    from limelight.guidance.attention import bias

    made, exact = [], bias._exact

    def keep(q, k, v, heads, mask=None):
        made.append((q, k, heads, mask))
        return exact(q, k, v, heads, mask)

    monkeypatch.setattr(bias, "_exact", keep)
    return made


@pytest.fixture(scope="session")
def skip_or_fail():
    """-> function (reason): skips the test for want of a tool; in CI, where every tool must be there, it fails."""

    def act(reason: str):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return act
