"""The subject's own pixels over the generated picture: clean rim, colours that match, light that fits.

Pictures are (H, W, 3) float32 in [0, 1], opacities (H, W) in [0, 1] as `place.opacity` leaves them.
"""

from __future__ import annotations

import numpy as np

from ..regions import raster
from ..saliency.maps import blur
from .place import VISIBLE, Placement, laid

SOLID = 24  # power of the opacity that says how far a pixel's colour is the subject's own
NARROWEST, HELD = 4, 0.1  # pixels of the smallest surroundings; share of them that wider ones count as
DOUBT = 0.03  # share of the surroundings that a colour's own guess counts as
GAINS, SHIFT = (0.8, 1.25), 0.15  # most that a colour match may do to the picture, in contrast and in level
AGREE = 0.1  # root mean square difference in the subject from which two pictures do not show the same thing
SAMPLES = 500_000  # pixels of the subject, at most, that the colour match looks at
LIGHT = 1.6  # most that harmonising may brighten or darken a place of the subject
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def foreground(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The subject's own colours where the photograph shows a mixture of them and the old background: (H, W, 3).

    From image = alpha F + (1 - alpha) B: both colours are averaged from the nearly pure pixels nearby, weighted by
    alpha^24 and (1 - alpha)^24, from wide surroundings to narrow ones as far as those hold any (after blurred fusion:
    Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021). Then both are moved until their mixture is the
    image, by least squares, the one with fewer pure pixels around it moving more: so a hair that is nowhere opaque
    takes its colour from the image and the known background. Opaque pixels stay bit for bit.
    """
    rim = (alpha > 0) & (alpha < 1)
    if not rim.any():
        return image
    rows, columns = (np.flatnonzero(rim.any(axis)) for axis in (1, 0))
    widest = max(NARROWEST, round(max(rows[-1] - rows[0], columns[-1] - columns[0]) / 8))
    part = tuple(slice(max(0, found[0] - widest), found[-1] + 1 + widest) for found in (rows, columns))
    clean = image.copy()
    clean[part] = _unmixed(image[part], alpha[part], rim[part], widest)
    return clean


def composed(
    picture: np.ndarray,
    subject: np.ndarray,
    alpha: np.ndarray,
    placement: Placement,
    shadow: np.ndarray | None = None,
    clean: bool = True,
    match: float = 0.0,
    harmonise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """All steps in their order -> the picture and the subject's opacity in it, both of the placement's canvas.

    picture: (H, W, 3) of the canvas' aspect, resized to it. subject, alpha: of the placement's source. shadow: RGBA,
    (h, w, 4), over the picture and under the subject. The others: see `foreground`, `matched` and `harmonised`. With an
    `exact` placement and harmonise 0, the subject's opaque pixels are its own, bit for bit.
    """
    colour, opacity = laid(foreground(subject, alpha) if clean else subject, alpha, placement)
    picture = matched(resized(picture, *placement.canvas), colour, opacity, match)
    if shadow is not None:
        picture = layered(picture, resized(shadow, *placement.canvas))
    return over(picture, harmonised(colour, opacity, picture, harmonise), opacity), opacity


def over(picture: np.ndarray, subject: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """subject over picture. Where alpha is 1 the subject's values, where it is 0 the picture's, bit for bit."""
    alpha = alpha[..., None]
    return subject * alpha + picture * (1 - alpha)


def matched(picture: np.ndarray, subject: np.ndarray, alpha: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """The generated picture with the colour shift taken back that the model has given the subject's place in it.

    What the picture has there is compared with the subject that it was to keep: per channel the gain and level that
    lead from the one to the other by least squares, drawn towards no change for even surfaces, are laid on the whole
    picture. Less of it where they do not agree (another thing stands there), and never more than `GAINS`, `SHIFT`.
    """
    solid = alpha >= 1
    if amount <= 0 or not solid.any():
        return picture
    deep = raster.distance(~solid) > 0.02 * min(alpha.shape)
    inside = deep if deep.any() else solid
    places = np.flatnonzero(inside)
    places = places[:: len(places) // SAMPLES + 1]
    found, wanted = (values.reshape(-1, 3)[places].astype(np.float64) for values in (picture, subject))
    middle, goal = found.mean(0), wanted.mean(0)
    held = 0.05**2  # variance that stands for "no change of contrast"
    gain = (((found - middle) * (wanted - goal)).mean(0) + held) / (((found - middle) ** 2).mean(0) + held)
    gain = gain.clip(*GAINS)
    left = np.sqrt(((gain * (found - middle) + goal - wanted) ** 2).mean())
    trust = amount * max(0.0, 1 - left / AGREE)
    gain = 1 + trust * (gain - 1)
    goal = middle + (trust * (goal - middle)).clip(-SHIFT, SHIFT)
    return (picture * gain.astype(np.float32) + (goal - gain * middle).astype(np.float32)).clip(0, 1)


def harmonised(subject: np.ndarray, alpha: np.ndarray, picture: np.ndarray, amount: float) -> np.ndarray:
    """The subject in the light of its surroundings: its brightness in the large follows the picture's; amount 0..1.

    The picture's brightness, smoothed to a fifth of the subject's size and continued into the subject's place, over the
    subject's mean brightness, within 1/`LIGHT` and `LIGHT`, to the power amount, multiplies all channels alike. So the
    subject's own shading, texture, hue and saturation stay. Amount 0 returns the subject itself.
    """
    if amount <= 0 or not (alpha > 0).any() or (alpha >= 1).all():
        return subject
    rows, columns = (np.flatnonzero((alpha > 0).any(axis)) for axis in (1, 0))
    size = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    own = float((subject @ LUMA * alpha).sum() / alpha.sum())
    beside, around = 1 - alpha, picture @ LUMA
    even = 1e-3 * float((around * beside).sum() / beside.sum())  # where the surroundings are too far away to tell
    light = (blur(around * beside, size / 5) + even) / (blur(beside, size / 5) + 1e-3)
    ratio = ((light + 0.02) / (own + 0.02)).clip(1 / LIGHT, LIGHT) ** np.float32(amount)
    return (subject * ratio[..., None]).clip(0, 1)


def layered(picture: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """An RGBA layer (H, W, 4), not premultiplied, over the picture."""
    return over(picture, layer[..., :3], layer[..., 3])


def resized(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, ...) of another size: averaged where it shrinks, cubic where it grows."""
    if values.shape[:2] == (height, width):
        return values
    cv2 = raster.opencv()
    shrinks = height <= values.shape[0] and width <= values.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(values), (width, height), interpolation=way).clip(0, 1)


def _unmixed(image: np.ndarray, alpha: np.ndarray, rim: np.ndarray, widest: int) -> np.ndarray:
    (front, known), (behind, seen) = (_nearby(image, pure**SOLID, widest) for pure in (alpha, 1 - alpha))
    own, other = alpha[..., None], 1 - alpha[..., None]
    missing = image - own * front - other * behind
    # the colour that fewer pixels nearby speak for may be off more, and moves more
    front += own * missing / (own**2 + other**2 * (known + DOUBT) / (seen + DOUBT) + 1e-3)
    return np.where(rim[..., None], front.clip(0, 1), image)


def _nearby(image: np.ndarray, weight: np.ndarray, widest: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the image by weight in windows from ``widest`` pixels around down to `NARROWEST`; where a window holds
    less weight than `HELD`, mostly what the wider one found. Wide windows are taken on a smaller picture. Also the
    weight in the narrowest, (H, W, 1)."""
    cv2 = raster.opencv()
    height, width = weight.shape
    layer = np.dstack([image * weight[..., None], weight])
    window, radius, held, found = 2 * NARROWEST + 1, widest, VISIBLE, None
    while True:
        less = max(1, radius // NARROWEST)
        size = -(-width // less), -(-height // less)
        small = cv2.resize(layer, size, interpolation=cv2.INTER_AREA) if less > 1 else layer
        small = cv2.blur(small, (window, window), borderType=cv2.BORDER_REPLICATE)
        if found is None:
            found = np.broadcast_to(image.mean((0, 1)), (*small.shape[:2], 3))
        else:
            found = cv2.resize(found, size, interpolation=cv2.INTER_LINEAR)
        found = (small[..., :3] + held * found) / (small[..., 3:] + held)
        if less == 1:
            return found, small[..., 3:]
        radius, held = max(NARROWEST, radius // 3), HELD
