"""Viewing conditions: how large a picture appears to whoever looks at it, in degrees of visual angle.

The eye sees sharply within about one degree, so that one degree is the natural width of a spot that is looked at, and
the unit in which eye tracking is smoothed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..checks import number, whole
from .maps import blur, peak, resize

# Pictures of the MIT300 benchmark: 1024 pixels on the long side, 35 pixels a degree.
TRAINED_DEGREES = 1024 / 35
SCALES = 0.25, 3.0  # of a predictor's input: below it has too few cells, above it costs too much


@dataclass(frozen=True)
class Display:
    """A picture as somebody sees it. width_cm: of the picture itself; distance_cm: from the eye; size in pixels."""

    width_cm: float
    distance_cm: float
    width_px: int
    height_px: int

    def checked(self) -> Display:
        """The display itself. Raises LimelightError for sizes that make no sense."""
        number(self.width_cm, "width_cm", 0.5, 100_000)
        number(self.distance_cm, "distance_cm", 1, 1_000_000)
        whole(self.width_px, "width_px", 16, 16384)
        whole(self.height_px, "height_px", 16, 16384)
        return self

    @property
    def pixels_per_degree(self) -> float:
        """At the middle of the picture, seen straight on: 2 distance tan(half a degree), in pixels."""
        return 2 * self.distance_cm * math.tan(math.radians(0.5)) * self.width_px / self.width_cm

    @property
    def field_of_view(self) -> float:
        """Degrees from the left edge to the right: 2 atan(width / (2 distance))."""
        return math.degrees(2 * math.atan(self.width_cm / (2 * self.distance_cm)))

    @property
    def degree(self) -> float:
        """One degree as a share of the picture's short side."""
        return self.pixels_per_degree / min(self.width_px, self.height_px)

    @property
    def predictor_scale(self) -> float:
        """How much larger the picture appears than those that predictors were trained on, kept within `SCALES`."""
        degrees = max(self.width_px, self.height_px) / self.pixels_per_degree
        return min(max(degrees / TRAINED_DEGREES, SCALES[0]), SCALES[1])


PRESETS = {
    "phone, upright": Display(6.8, 32, 1080, 1920),
    "tablet": Display(24, 45, 2360, 1640),
    "laptop": Display(31, 55, 1920, 1200),
    "desktop": Display(60, 65, 2560, 1440),
    "television": Display(121, 270, 3840, 2160),
    "billboard": Display(1463, 6000, 2048, 598),
    "wide field of view": Display(200, 70, 2048, 1024),
}


def retarget(maps: np.ndarray, shown: Display, made_for: Display | None = None, reshape: bool = False) -> np.ndarray:
    """(B, H, W) maps for another display: regions keep their places in the picture, edges become as soft as there.

    With one degree being a larger part of the picture than before, more of it is seen at once: the maps are smoothed by
    the difference, sqrt(to^2 - from^2) of the short side, and keep their peaks. Where a degree is a smaller part they
    stay: a map cannot tell what it has not resolved. made_for: None, edges are taken as sharp. reshape: to the
    display's aspect, with as many pixels as before.
    """
    height, width = maps.shape[-2:]
    if reshape:
        pixels, aspect = height * width, shown.width_px / shown.height_px
        height, width = (
            max(8, 8 * round(side / 8)) for side in (math.sqrt(pixels / aspect), math.sqrt(pixels * aspect))
        )
        maps = resize(maps, height, width)
    squared = shown.degree**2 - (made_for.degree**2 if made_for else 0)
    if squared <= 0:
        return maps
    return np.stack([peak(blur(one, math.sqrt(squared) * min(height, width)), float(one.max())) for one in maps])
