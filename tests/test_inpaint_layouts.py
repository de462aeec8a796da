"""Inpainting ControlNets and UNets in both layouts: names one to one, the same tensors back."""

from __future__ import annotations

import pytest
import torch
from inpaint_weights import NARROW, PUBLISHED, control_net, unet

from limelight.guidance.errors import LimelightError

MAKERS = {"ControlNet": control_net, "UNet": unet}


def skeleton(make, **changes) -> dict[str, torch.Tensor]:
    """Shapes of a network without its weights."""
    with torch.device("meta"):
        return make(**changes).state_dict()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("family", PUBLISHED)
def test_round_trip_of_every_family(host, family, kind):
    import comfy.cldm.cldm
    import comfy.model_detection
    import comfy.ops

    from limelight.models.inpaint_layouts import to_diffusers, to_original

    state = skeleton(MAKERS[kind], **PUBLISHED[family])
    original = to_original(state, "test")
    back = to_diffusers(original)
    assert back.keys() == state.keys() and all(back[key] is state[key] for key in state)
    config = comfy.model_detection.model_config_from_unet(original, "")
    assert type(config).__name__ == {"SD1.5": "SD15", "SD2": "SD20", "SDXL": "SDXL"}[family]
    if kind == "ControlNet":
        structure = {key: value for key, value in config.unet_config.items() if key != "out_channels"}
        with torch.device("meta"):
            built = comfy.cldm.cldm.ControlNet(
                **structure, hint_channels=3, operations=comfy.ops.disable_weight_init, device="meta"
            ).state_dict()
        assert {key: value.shape for key, value in built.items()} == {k: v.shape for k, v in original.items()}


def test_yahoos_file_has_340_tensors_of_364_million_weights():
    state = skeleton(control_net, **PUBLISHED["SD2"])
    assert len(state) == 340 and sum(value.numel() for value in state.values()) == 364_242_640
    assert tuple(state["conv_in.weight"].shape) == (320, 9, 3, 3)


@pytest.mark.parametrize("hints", [(16, 32, 96, 256), (16, 32), (8,)])
def test_encoders_of_the_hint_of_any_depth(host, hints):
    from limelight.models.inpaint_layouts import to_diffusers, to_original

    state = skeleton(control_net, **NARROW, conditioning_embedding_out_channels=hints)
    original = to_original(state, "test")
    assert to_diffusers(original).keys() == state.keys()
    assert original[f"input_hint_block.{4 * len(hints) - 2}.weight"].shape[0] == 64


def test_a_name_without_a_place_is_an_error(host):
    from limelight.models.inpaint_layouts import to_original

    state = skeleton(control_net, **NARROW)
    with pytest.raises(LimelightError, match="x: 1 of its .* for example mid_block.adapter.weight"):
        to_original({**state, "mid_block.adapter.weight": torch.zeros(1)}, "x")
