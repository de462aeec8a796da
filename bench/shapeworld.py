"""Can shapeworld draw what it is asked for? Two-object prompts, unguided; how many named objects are there.

python dev.py bench shapeworld [--count N] [--seed S] [--out FILE] [--images FOLDER]
"""

from __future__ import annotations

from tqdm import tqdm

from ..shapeworld.reader import presence, read
from . import table
from .prompts import two_object_prompts
from .sampling import SCALE, STEPS, decode, encode, load_world, sample
from .sheets import add_images_option, save_sheet

NAME = "shapeworld"


def main() -> None:
    options = table.arguments(NAME, __doc__.splitlines()[0], count=200, add=add_images_option)
    world = load_world()
    negative = encode(world.clip, "")
    shares = []
    for index, prompt in enumerate(tqdm(two_object_prompts(options.seed, options.count), desc=NAME)):
        positive = encode(world.clip, prompt.caption)
        image = decode(world.vae, sample(world.model, positive, negative, image_seed(options.seed, index))[0])
        shares.append(presence(read(image), prompt.phrases))
        save_sheet(options.images, index, prompt.caption, {f"unguided {shares[-1]:.1f}": image})
    rows = [{"row": "unguided", "presence": sum(shares) / len(shares)}]
    command = table.command(NAME, options.count, options.seed)
    table.write(NAME, rows, command, options.out, sampler="euler", steps=STEPS, scale=SCALE)


def image_seed(seed: int, index: int) -> int:
    """Noise seed of the ``index``-th prompt: no two tables of different ``seed`` share images."""
    return seed * 100_000 + index


if __name__ == "__main__":
    main()
