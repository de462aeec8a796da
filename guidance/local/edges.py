"""Line hints for adapters and ControlNets: crisp and soft edges of a picture, and drawings that are lines already.

Hints are white lines on black. Adapters of SDXL were trained on soft lines, found in a picture of 384 pixels and
enlarged; pixel-perfect ones lead them astray.
"""

from __future__ import annotations

import numpy as np

from ..regions import raster

LOW, HIGH = 100, 200  # thresholds of Canny, as in the training of the published edge adapters
SDXL_SIDE = 384  # pixels of the short side in which soft lines are found for SDXL
SMOOTH = 1.0  # standard deviation, in pixels, of the blur before soft lines are looked for
FAINT = 0.15  # contrast of the strongest edge below which a picture has no edges, and is not amplified
INK = 0.3  # most that the lines of a drawing cover
TONES = 0.12  # how far a drawing's ground is from one tone, in shares of the contrast
THIN = 0.01  # half the width of a drawing's lines, in shares of the short side


def gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) in [0, 1] -> differences across and down (H, W), float32, of the channel that changes most.

    Sobel filters, whose weights sum to 8 in absolute value. Edges between colours of equal brightness count.
    """
    cv2 = raster.opencv()
    image = np.ascontiguousarray(image, np.float32)
    across, down = (cv2.Sobel(image, cv2.CV_32F, *way, borderType=cv2.BORDER_REPLICATE) for way in ((1, 0), (0, 1)))
    across, down = (part.reshape(*image.shape[:2], -1) for part in (across, down))
    most = (across**2 + down**2).argmax(2)[..., None]
    across, down = (np.take_along_axis(part, most, 2)[..., 0] for part in (across, down))
    return across, down


def canny(image: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> (H, W) bool: lines of one pixel. low, high: of the hysteresis, in levels of 0 to 255."""
    steps = [(255 * part).round().astype(np.int16) for part in gradients(image)]
    return raster.opencv().Canny(*steps, low, high) > 0


def soft(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> (H, W) float32 in [0, 1]: how strong an edge each pixel is on, the strongest 1."""
    blurred = raster.opencv().GaussianBlur(np.ascontiguousarray(image, np.float32), (0, 0), SMOOTH)
    strength = np.hypot(*gradients(blurred)) / 4  # 1 for a step from black to white before the blur
    return (strength / max(np.quantile(strength, 0.995), FAINT)).clip(0, 1).astype(np.float32)


def light_ground(image: np.ndarray) -> bool:
    """Whether most of a picture (H, W, 3) is light: its lines, if it is a drawing, are the dark ones."""
    return bool(np.median(image.mean(2)) > 0.5)


def drawing(image: np.ndarray) -> np.ndarray:
    """Lines (H, W, 3) in [0, 1], dark on light or light on dark -> (H, W) in [0, 1], light on dark."""
    grey = image.mean(2, dtype=np.float32)
    return 1 - grey if light_ground(image) else grey


def is_drawing(image: np.ndarray) -> bool:
    """Whether a picture (H, W, 3) seems to be lines already: grey, nearly all of it one tone, thin lines of another."""
    if np.ptp(image, axis=2).mean() > 0.02:
        return False
    lines = drawing(image)
    ground, ink = np.median(lines), lines.max()
    contrast = ink - ground
    if contrast < 0.3:
        return False
    if (np.abs(lines - ground) <= TONES * contrast).mean() < 1 - INK:
        return False
    strokes = lines > ground + contrast / 2
    half_width = np.quantile(raster.distance(~strokes)[strokes], 0.95)
    return bool(half_width <= max(3, THIN * min(lines.shape)))


def at_side(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) made smaller, to a short side of `side` pixels; a smaller picture stays. 0: as it is."""
    height, width = image.shape[:2]
    shrink = side / min(height, width)
    if not side or shrink >= 1:
        return image
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    cv2 = raster.opencv()
    return cv2.resize(np.ascontiguousarray(image, np.float32), size, interpolation=cv2.INTER_AREA)


def enlarged(lines: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) in [0, 1] at another size, softly."""
    if lines.shape == (height, width):
        return lines
    cv2 = raster.opencv()
    return cv2.resize(lines.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
