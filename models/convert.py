"""Takes a ControlNet out of a training checkpoint: ``python -m limelight.models.convert INPUT OUTPUT [--half]``.

INPUT: a Lightning .ckpt such as GazeFusion's (the whole model, 6.7 GB), or any file with a ControlNet in the original
layout. OUTPUT: a .safetensors for models/controlnet, which ComfyUI's own Load ControlNet Model takes. Only the parts
that belong to the ControlNet are read from the disk. Needs torch and safetensors, not a running ComfyUI.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..guidance.errors import LimelightError
from . import controlnet_files, files

DONE = 0
FAILED = 1


def convert(source: Path, target: Path, half: bool = False) -> dict[str, str]:
    """Writes the ControlNet in `source` to `target`; -> the metadata that the new file has.

    half: in 16 bits a number, half the size. The target appears only when it is complete. Raises LimelightError.
    """
    if target.suffix != ".safetensors":
        raise LimelightError(f"OUTPUT: found {target.name}; expected a name that ends in .safetensors.")
    if target.exists():
        raise LimelightError(f"OUTPUT: {target} is there already. Move it away, or choose another name.")
    if not target.parent.is_dir():
        raise LimelightError(f"OUTPUT: there is no folder {target.parent}. Make it, or choose another.")
    if not source.is_file():
        raise LimelightError(f"INPUT: found no file {source}. Check the path.")
    state = controlnet_files.extract(files.mapped(source, "INPUT"), f"INPUT ({source.name})")
    state = {key: _plain(value, key, half) for key, value in state.items()}
    about = {
        "format": "pt",
        "source": source.name,
        "layout": "ControlNet, original (bare)",
        "tensors": str(len(state)),
        "context_width": str(controlnet_files.context_width(state)),
        "trained": str(not controlnet_files.untrained(state)).lower(),
    }
    files.write_whole(target, state, about)
    return about


def _plain(value: torch.Tensor, key: str, half: bool) -> torch.Tensor:
    """Contiguous, of the wanted kind, and of finite numbers."""
    if half and value.is_floating_point():
        value = value.half()
    if not value.isfinite().all():
        cause = "in 16 bits; convert without --half" if half else "already in the file; its training went wrong"
        raise LimelightError(f"INPUT: {key} has values that are not finite, {cause}.")
    return value.contiguous()


def main(arguments: list[str] | None = None) -> int:
    """See the module's text. -> the exit status: 0 done, 1 not."""
    parser = argparse.ArgumentParser(prog="python -m limelight.models.convert", description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="a .ckpt, .pth, .bin or .safetensors with a ControlNet in it")
    parser.add_argument("output", type=Path, help="the .safetensors to write")
    parser.add_argument("--half", action="store_true", help="16 bits a number: half the size")
    options = parser.parse_args(arguments)
    try:
        about = convert(options.input, options.output, options.half)
    except (LimelightError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {about['tensors']} tensors, {size:.0f} MB, for prompts {about['context_width']} wide")
    if about["trained"] == "false":
        print("warning: this ControlNet is untrained. Its last layers are zero, so that it changes nothing.")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
