"""T2I-Adapters from any layout to another: ``python -m limelight.tools.convert_adapter IN OUT [--layout diffusers]``.

OUT: a .safetensors file; for diffusers a folder, which gets the weights and their config.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..guidance.errors import LimelightError
from .in_process import import_host


def main() -> int:
    """Convert one file."""
    parser = argparse.ArgumentParser(prog="convert_adapter", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a .safetensors, .pth, .pt, .bin or .ckpt file")
    parser.add_argument("target", type=Path, help="a .safetensors file, or a folder for the layout of diffusers")
    parser.add_argument("--layout", choices=("original", "diffusers"), default="original")
    parser.add_argument("--base-model", default="automatic", help="'SD 1.x or 2.x' or 'SDXL' where it cannot be told")
    wanted = parser.parse_args()
    import_host()
    try:
        print(export(wanted.source, wanted.target, wanted.layout, wanted.base_model))
    except LimelightError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def export(source: Path, target: Path, layout: str, kind: str = "automatic") -> Path:
    """Read an adapter of any layout and write it. -> the file with its weights."""
    from ..models import adapter_files, files

    network, mode = adapter_files.load(source, kind), adapter_files.mask_mode(source)
    about = adapter_files.metadata(network, **({"mask_mode": mode} if mode else {}))
    if layout != "original":
        return adapter_files.write_diffusers(target, network, about)
    files.write_whole(target, {key: value.contiguous() for key, value in network.state_dict().items()}, about)
    return target


if __name__ == "__main__":
    sys.exit(main())
