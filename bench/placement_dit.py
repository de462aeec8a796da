"""Do highlighted objects go where their strokes are on a diffusion transformer? As `placement`, on the small NextDiT.

    python dev.py bench placement-dit [--count N] [--seed S] [--out FILE] [--rows NAME ...] [--images FOLDER] [--jobs N]
                                   [--scores FILE]

The metrics are those of `placement`. Published methods are of UNets and have no rows here. All rows use PyTorch's fused
attention, the host's choice on GPUs: its choice on CPUs is slower, which would flatter the bias.
"""

from __future__ import annotations

from dataclasses import replace

from . import placement
from .random_unet import FUSED
from .sampling import World, load_transformer_world

NAME = "placement-dit"
ROWS = (placement.UNGUIDED, "bias", "limelight", "bias+limelight")


def load() -> World:
    """The world with a transformer whose attention is fused."""
    world = load_transformer_world()
    model = world.model.clone()
    model.model_options["transformer_options"].update(FUSED)
    return replace(world, model=model)


def main() -> None:
    placement.main(NAME, load, ROWS)


if __name__ == "__main__":
    main()
