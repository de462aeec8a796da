"""The folder of shapeworld's trainer, with random networks."""

from __future__ import annotations

from pathlib import Path

import torch


def write(work: Path, host_path: Path) -> dict[str, torch.nn.Module]:
    """Networks as the stages ``vae`` and ``unet`` leave them, and the file of them, shapeworld.safetensors.
    -> "unet", "vae", "text_encoder"."""
    from safetensors.torch import save_file

    from limelight.shapeworld import export
    from limelight.shapeworld.networks import Vocabulary, build_text_encoder, build_unet, build_vae

    vocabulary = Vocabulary(host_path / "comfy" / "sd1_tokenizer")
    torch.manual_seed(0)
    networks = {"unet": build_unet(), "vae": build_vae(), "text_encoder": build_text_encoder(len(vocabulary))}
    for name, network in networks.items():
        network.half().float().eval().save_pretrained(work / name)  # the file holds half precision
    tensors, metadata = export.checkpoint(work, host_path)
    save_file(tensors, work / "shapeworld.safetensors", metadata)
    return networks
