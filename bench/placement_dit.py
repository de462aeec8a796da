"""Do highlighted objects go where their strokes are on a diffusion transformer? As `placement`, on the small NextDiT.

    python dev.py bench placement-dit [--count N] [--seed S] [--out FILE] [--rows NAME ...] [--images FOLDER] [--jobs N]
                                   [--scores FILE]

The metrics are those of `placement`. Published methods are of UNets and have no rows here.
"""

from __future__ import annotations

from . import placement
from .sampling import load_transformer_world

NAME = "placement-dit"
ROWS = (placement.UNGUIDED, "bias", "limelight", "bias+limelight")


def main() -> None:
    placement.main(NAME, load_transformer_world, ROWS)


if __name__ == "__main__":
    main()
