"""Small models that other nodes hang on to the tests' UNet: a ControlNet and a GLIGEN of the host, random weights."""

from __future__ import annotations

import torch


def control_net(model, hint):
    """A tiny ControlNet of the cldm kind that the host runs, with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet
    from conftest import TINY_SD15, random_weights

    config = {k: v for k, v in TINY_SD15.items() if k not in ("out_channels", "transformer_depth_output")}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3)
    random_weights(network, seed=4, gain=0.5)
    device = torch.device("cpu")
    return comfy.controlnet.ControlNet(network, load_device=device).set_cond_hint(hint, 1.0, (0.0, 1.0))


def grounding(model):
    """A tiny GLIGEN for the tiny UNet: one gated attention a transformer, with random weights."""
    import comfy.gligen
    import comfy.model_patcher
    from comfy.ldm.modules.attention import SpatialTransformer
    from conftest import CONTEXT, random_weights

    transformers = [m for m in model.model.diffusion_model.modules() if isinstance(m, SpatialTransformer)]
    gates = [comfy.gligen.GatedSelfAttentionDense(m.in_channels, CONTEXT, 4, m.in_channels // 4) for m in transformers]
    network = comfy.gligen.Gligen(gates, comfy.gligen.PositionNet(CONTEXT, CONTEXT), CONTEXT)
    random_weights(network, seed=6)
    with torch.inference_mode():
        for gate in gates:
            for name in ("alpha_attn", "alpha_dense"):
                gate._parameters[name] = torch.nn.Parameter(torch.tensor(0.7), requires_grad=False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=device, offload_device=device)
