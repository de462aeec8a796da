"""What a recorded sampling run showed, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..errors import LimelightError

if TYPE_CHECKING:
    from ..regions.document import Highlight

SAME_ASPECT = 1.05  # how far an image's aspect may be from the latent's: sizes are rounded to whole cells


@dataclass(frozen=True)
class Recorded:
    """A highlight that a run was recorded for."""

    highlight: Highlight
    crop: tuple[int, int, int, int] | None
    """h, w, y, x in latent cells of a conditioning with an area: its maps cover only that."""


@dataclass(frozen=True)
class Step:
    """What one sampling step showed, on the CPU. Lists and columns are in the order of `Recording.highlights`."""

    index: int
    """From 0."""
    percent: float
    """Where on the noise schedule: 0 = pure noise, 1 = the finished image."""
    maps: list[torch.Tensor | None]
    """(B, h, w) in [0, 1]: the phrase's share of the prompt's attention (`losses.phrase_map`), averaged over layers on
    the grid of the finest. None where the conditioning was not in force."""
    losses: torch.Tensor
    """(B, n): `losses.placement_loss`, averaged over layers. NaN where the conditioning was not in force."""


class Recording:
    """What the last run of a recorded model showed. A new run replaces it; an interrupted one leaves what it has."""

    def __init__(self) -> None:
        self.begin([], (0, 0), 0)
        self.ran = False

    def begin(self, highlights: list[Recorded], latent: tuple[int, int], planned: int) -> None:
        """Forget what was here. latent: (h, w); planned: steps of the run."""
        self.ran, self.highlights, self.latent, self.planned = True, highlights, latent, planned
        self._steps: dict[int, Step] = {}

    def keep(self, step: Step) -> None:
        """Add a step, in place of an earlier one with its index."""
        self._steps[step.index] = step

    @property
    def steps(self) -> list[Step]:
        return [self._steps[index] for index in sorted(self._steps)]

    @property
    def batch(self) -> int:
        """Images of the run."""
        return self.steps[0].losses.shape[0]

    def check(self, count: int, height: int, width: int) -> None:
        """Raise a LimelightError that says what to connect, unless there is something to show and the images (count,
        height, width) are those of the run."""
        if not self.ran:
            raise LimelightError(
                "record: nothing was recorded. Connect the model output of Attention Record to the sampler, and the "
                "image that this sampler made to this node, so that it runs after it."
            )
        if not self.highlights:
            raise LimelightError(
                "record: the sampler ran, but its positive conditioning carries no highlights. Encode the prompt with "
                "Highlight Prompt, and connect that to the sampler's positive."
            )
        if not self._steps:
            raise LimelightError(
                "record: the sampler ran, but no attention was seen: the run stopped before its first step was done, "
                "the highlights' conditioning was never in force, or another node replaced the model's forward pass."
            )
        if count != self.batch:
            raise LimelightError(
                f"image: found {count}, but the record is of a run of {self.batch}. Connect all images that the "
                "recorded model's sampler made."
            )
        aspect = (width / height) / (self.latent[1] / self.latent[0])
        if not 1 / SAME_ASPECT <= aspect <= SAME_ASPECT:
            raise LimelightError(
                f"image: found {width}x{height}, but the record is of a latent of {self.latent[1]}x{self.latent[0]}. "
                "Connect the image of the recorded model's sampler, not cropped."
            )

    def whole(self, step: Step, number: int) -> torch.Tensor | None:
        """The map of a highlight as (B, h, w) over the whole image: 0 outside the area of its conditioning."""
        maps, crop = step.maps[number], self.highlights[number].crop
        if maps is None or crop is None:
            return maps
        h, w, y, x = crop
        canvas = maps.new_zeros(maps.shape[0], *self.latent)
        canvas[:, y : y + h, x : x + w] = resized(maps, h, w)
        return canvas

    def final(self, number: int) -> torch.Tensor:
        """As `whole`, of the last step that shows the highlight; all zero if none does."""
        for step in reversed(self.steps):
            maps = self.whole(step, number)
            if maps is not None:
                return maps
        return torch.zeros(self.batch, *self.latent)

    def final_maps(self, height: int, width: int) -> torch.Tensor:
        """(B, n, height, width): the final map of every highlight."""
        return torch.stack([resized(self.final(number), height, width) for number in range(len(self.highlights))], 1)


def resized(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, h, w) -> (B, height, width), bilinear, the whole onto the whole."""
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def choose_steps(recording: Recording, text: str) -> list[Step]:
    """The recorded steps that a text names, each once, in order: "all", or a list of step numbers from 0, percents of
    the noise schedule ("20%"), "first" and "last". A step that was not recorded stands for the nearest that was.

    Raises a LimelightError for anything else.
    """
    steps = recording.steps
    chosen: set[int] = set()
    for word in text.replace(",", " ").lower().split():
        if word == "all":
            chosen.update(step.index for step in steps)
        elif word in ("first", "last"):
            chosen.add(steps[0 if word == "first" else -1].index)
        elif word.endswith("%") and _number(word[:-1]) <= 100:
            percent = _number(word[:-1]) / 100
            chosen.add(min(steps, key=lambda step: abs(step.percent - percent)).index)
        elif word.isdecimal() and int(word) < recording.planned:
            chosen.add(min(steps, key=lambda step: abs(step.index - int(word))).index)
        else:
            raise LimelightError(
                f'steps: found {word!r}; expected "all", or a list such as "0, 5, 20%, last" with step numbers from 0 '
                f"to {recording.planned - 1} and percents of the noise schedule."
            )
    if not chosen:
        raise LimelightError('steps: found nothing; expected "all", or a list such as "0, 5, 20%, last".')
    return [step for step in steps if step.index in chosen]


def _number(text: str) -> float:
    """A plain decimal number >= 0; infinity for anything else."""
    return float(text) if text.replace(".", "", 1).isdecimal() else float("inf")
