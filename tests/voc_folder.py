"""A small data set in the exact layout of VOC2012 with ScribbleSup's files, made from shapeworld's scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from limelight.guidance.regions import voc
from limelight.shapeworld.scenes import BACKGROUNDS, COLOURS, Scene, Thing, random_scene, render

CLASS_OF = {"red": "bird", "green": "boat", "blue": "person", "yellow": "tvmonitor"}
NAMES = [f"{name}={colour} circle" for colour, name in CLASS_OF.items()]
TEMPLATE = "{objects} on a gray background"
SHAPES = ((192, 128), (128, 128), (128, 176), (250, 128), (131, 163))  # (width, height), square ones are rare in VOC


@dataclass(frozen=True)
class Photo:
    """One picture: RGB (h, w, 3) in plain colours, label map (h, w), and its lines by class name in pixels."""

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    lines: list[tuple[str, list[tuple[int, int]]]]


def write_folder(folder: Path, seed: int = 0) -> list[Photo]:
    """Writes ImageSets, JPEGImages, SegmentationClass and Scribbles; -> the pictures that can be evaluated."""
    for name in ("ImageSets/Main", "JPEGImages", "SegmentationClass", "Scribbles"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    photos = [photo(f"2008_{number:06d}", size, rng) for number, size in enumerate(SHAPES, 1)]
    for one in photos:
        Image.fromarray(one.pixels).save(folder / "JPEGImages" / f"{one.name}.jpg")
        indexed = Image.fromarray(one.labels, "P")
        indexed.putpalette(voc.palette())
        indexed.save(folder / "SegmentationClass" / f"{one.name}.png")
        (folder / "Scribbles" / f"{one.name}.xml").write_text(xml(one), encoding="utf-8")
    # trainval also lists pictures of the detection task, which have no label map
    listed = ["2008_000000", *(one.name for one in photos)]
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{name}\n" for name in listed))
    return photos


def photo(name: str, size: tuple[int, int], rng: np.random.Generator) -> Photo:
    """Two circles of different colour on gray, somewhere on a canvas of that size, with a void line around each."""
    colours = [list(COLOURS)[k] for k in rng.choice(len(COLOURS), 2, replace=False)]
    scene = Scene(random_scene(rng, [("circle", colour) for colour in colours]).things, "gray")
    side, (width, height) = min(size), size
    left, top = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
    masks = np.zeros((len(scene.things), height, width), np.float32)
    masks[:, top : top + side, left : left + side] = render(scene, side)[1]
    labels = np.zeros((height, width), np.uint8)
    pixels = np.full((height, width, 3), BACKGROUNDS["gray"], np.uint8)
    for thing, mask in zip(scene.things, masks, strict=True):
        labels[mask >= 0.5] = voc.CLASSES.index(CLASS_OF[thing.colour])
        pixels[mask >= 0.5] = COLOURS[thing.colour]
        labels[(mask > 0) & (mask < 0.5)] = voc.VOID
    lines = [(CLASS_OF[thing.colour], line(thing, side, left, top)) for thing in scene.things]
    return Photo(name, pixels, labels, [*lines, ("background", [(0, 0), (width - 1, 0)]), ("grass", [(0, 9)])])


def line(thing: Thing, side: int, left: int, top: int) -> list[tuple[int, int]]:
    """A curved stroke through the middle of a circle, within half its radius."""
    steps = np.linspace(-0.5, 0.5, 9)
    points = [(thing.x + thing.size * t, thing.y + 0.2 * thing.size * math.sin(6 * t)) for t in steps]
    return [(round(x * side) + int(left), round(y * side) + int(top)) for x, y in points]


def xml(one: Photo) -> str:
    """ScribbleSup's file of a picture, as the data set writes it: the mouse's points mostly come twice."""
    height, width = one.labels.shape
    text = "<annotation>\n\t<folder>anno</folder>\n"
    text += f"\t<filename>{one.name}.jpg</filename>\n"
    text += (
        "\t<source>\n\t\t<database>The anno Database</database>\n\t\t<annotation>VC anno</annotation>\n\t</source>\n"
    )
    text += f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
    text += "\t<segmented>1</segmented>\n"
    for tag, points in one.lines:
        pairs = [f"\t\t<point>\n\t\t\t<X>{x}</X>\n\t\t\t<Y>{y}</Y>\n\t\t</point>\n" for x, y in points]
        inner = "".join(pair * (1 + i % 2) for i, pair in enumerate(pairs))
        text += f"\t<polygon>\n\t\t<tag>{tag}</tag>\n{inner}\t</polygon>\n"
    return text + "</annotation>\n"


def write_segmenter(path: Path) -> None:
    """A TorchScript file in the form that the evaluation takes, which reads the plain colours exactly."""
    import torch

    class ByColour(torch.nn.Module):
        def __init__(self, colours: torch.Tensor, ids: torch.Tensor):
            super().__init__()
            self.colours, self.ids = colours, ids

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
            deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
            pixels = (image * deviation + mean)[:, None]
            away = (pixels - self.colours[None, :, :, None, None]).square().sum(2)
            scores = torch.full([1, 21, image.shape[2], image.shape[3]], -100.0)
            scores[:, self.ids] = -away
            return scores

    known = {BACKGROUNDS["gray"]: 0} | {COLOURS[c]: voc.CLASSES.index(name) for c, name in CLASS_OF.items()}
    module = ByColour(torch.tensor(list(known)) / 255, torch.tensor(list(known.values())))
    torch.jit.script(module).save(str(path))


def write_clip(folder: Path, tokenizer: Path) -> None:
    """The folder of a tiny random CLIP, as transformers saves it. tokenizer: the host's comfy/sd1_tokenizer."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | {"vocab_size": 49408, "projection_dim": 8},
        vision_config=small | {"image_size": 32, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(str(tokenizer)).save_pretrained(folder)
