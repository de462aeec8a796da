"""Scene generator: coloured shapes on a plain background, with a caption and one exact mask per object.

Coordinates are fractions of the image side, x to the right and y down. A bar's ``angle`` is that of its long axis
in radians, in [0, pi), measured from +x towards +y (clockwise on screen).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

SIDE = 128
SHAPES = ("circle", "square", "bar")
COLOURS = {"red": (215, 45, 45), "green": (40, 165, 70), "blue": (45, 85, 215), "yellow": (240, 205, 50)}
BACKGROUNDS = {"gray": (128, 128, 128), "white": (235, 235, 235), "black": (25, 25, 25)}

_SUPERSAMPLE = 4  # masks are drawn at four times the side and averaged: exact coverage to 1/16
_GAP = 0.03  # least distance between two objects and to the border
_JITTER = 8  # +- per channel, so that the autoencoder does not memorise seven colours


@dataclass(frozen=True)
class Thing:
    """One object. ``size`` is the radius of a circle, half the side of a square, half the length of a bar."""

    shape: str
    colour: str
    x: float
    y: float
    size: float
    thickness: float = 0.0  # bars only: full thickness
    angle: float = 0.0  # bars only

    @property
    def phrase(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str

    @property
    def caption(self) -> str:
        return caption([thing.phrase for thing in self.things], self.background)


def caption(phrases: list[str], background: str) -> str:
    """``["red circle", "blue bar"], "gray"`` -> "a red circle and a blue bar on a gray background"."""
    named = [f"a {phrase}" for phrase in phrases]
    listed = named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]
    return f"{listed} on a {background} background"


def outline(thing: Thing) -> np.ndarray:
    """Corner points of a square or bar, (4, 2), in fractions of the side."""
    a, b = (thing.size, thing.size) if thing.shape == "square" else (thing.size, thing.thickness / 2)
    corners = np.array([(-a, -b), (a, -b), (a, b), (-a, b)])
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    return corners @ np.array([(cos, sin), (-sin, cos)]) + (thing.x, thing.y)


def render_mask(thing: Thing, side: int = SIDE) -> np.ndarray:
    """Coverage of one object, float32 (side, side) in [0, 1]."""
    big, shift = side * _SUPERSAMPLE, 4
    canvas = np.zeros((big, big), np.uint8)
    scale = big * (1 << shift)
    if thing.shape == "circle":
        centre = (round(thing.x * scale), round(thing.y * scale))
        cv2.circle(canvas, centre, round(thing.size * scale), 1, -1, cv2.LINE_8, shift)
    else:
        cv2.fillPoly(canvas, [np.round(outline(thing) * scale).astype(np.int32)], 1, cv2.LINE_8, shift)
    blocks = canvas.reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def render(scene: Scene, side: int = SIDE, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """-> image uint8 (side, side, 3) RGB, masks float32 (n, side, side). ``rng`` jitters the colours."""

    def paint(rgb: tuple[int, int, int]) -> np.ndarray:
        noise = rng.integers(-_JITTER, _JITTER + 1, 3) if rng is not None else 0
        return np.clip(np.array(rgb, np.float32) + noise, 0, 255)

    image = np.broadcast_to(paint(BACKGROUNDS[scene.background]), (side, side, 3)).astype(np.float32)
    masks = np.stack([render_mask(thing, side) for thing in scene.things])
    for thing, mask in zip(scene.things, masks, strict=True):
        image += mask[..., None] * (paint(COLOURS[thing.colour]) - image)
    return np.round(image).astype(np.uint8), masks


def random_thing(rng: np.random.Generator, shape: str, colour: str) -> Thing:
    size, thickness, angle = rng.uniform(0.13, 0.18), 0.0, 0.0
    if shape == "square":
        size = rng.uniform(0.12, 0.165)
    elif shape == "bar":
        size, thickness, angle = rng.uniform(0.19, 0.26), rng.uniform(0.11, 0.14), rng.uniform(0, math.pi)
    thing = Thing(shape, colour, 0.5, 0.5, size, thickness, angle)
    half = np.abs(outline(thing) - 0.5).max(0) if shape != "circle" else np.array([size, size])
    low, high = half + _GAP, 1 - half - _GAP
    x, y = rng.uniform(low, high)
    return replace(thing, x=float(x), y=float(y))


def random_scene(rng: np.random.Generator, phrases: list[tuple[str, str]] | None = None) -> Scene:
    """Objects that neither overlap nor leave the image. ``phrases``: (shape, colour) pairs; random when None."""
    if phrases is None:
        count = int(rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2]))
        kinds = rng.choice(len(SHAPES) * len(COLOURS), count, replace=False)
        phrases = [(SHAPES[k // len(COLOURS)], tuple(COLOURS)[k % len(COLOURS)]) for k in kinds]
    background = str(rng.choice(list(BACKGROUNDS)))
    grid = 64  # overlap is tested on a coarse raster
    kernel = np.ones((2 * math.ceil(_GAP * grid) + 1,) * 2, np.uint8)
    while True:  # start again when an object finds no room
        placed: list[Thing] = []
        taken = np.zeros((grid, grid), bool)
        for shape, colour in phrases:
            for _ in range(20):
                thing = random_thing(rng, shape, colour)
                mask = render_mask(thing, grid) > 0
                if not (mask & taken).any():
                    placed.append(thing)
                    taken |= cv2.dilate(mask.astype(np.uint8), kernel) > 0
                    break
            else:
                break
        if len(placed) == len(phrases):
            return Scene(tuple(placed), background)
