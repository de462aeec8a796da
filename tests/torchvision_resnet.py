"""torchvision's ResNet-50 with EML-Net's read-outs, as a reference that the project did not write."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def read_out(state: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """The five one-channel maps of a branch's state for a picture (B, 3, h, w)."""
    from torchvision.models import resnet50

    net = resnet50(weights=None).eval()
    missing = net.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith(("output", "comb"))}, strict=False
    )
    assert missing.missing_keys == ["fc.weight", "fc.bias"] and not missing.unexpected_keys
    x = net.relu(net.bn1(net.conv1(x)))
    features = [x]
    x = net.maxpool(x)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        features.append(x)
    maps = []
    for i, feature in enumerate(features):
        y = F.conv2d(feature, state[f"output{i}.0.weight"], state[f"output{i}.0.bias"], padding=1)
        norm = [state[f"output{i}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        maps.append(F.relu(F.batch_norm(y, *norm)))
    return maps
