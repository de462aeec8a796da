"""What is to be guided in a run: the positive conditionings that carry highlights, with their targets."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from ..errors import LimelightError
from ..prompts.binding import KEY
from ..regions.targets import Target, build_targets

NEGATIVE = {"negative", "empty_negative_prompt"}  # DualCFG's "middle" is a second positive
VISIBLE = 0.01  # a highlight whose coverage is below this everywhere in a crop is not in it


@dataclass
class Scene:
    """One positive conditioning entry of a guider and what its maps should look like."""

    cond: dict
    bound: dict
    latent: tuple[int, int]  # h, w of the whole latent
    crop: tuple[int, int, int, int] | None  # h, w, y, x in latent cells of a conditioning with an area
    looseness: float
    _shown: list[int] = field(default_factory=list)
    _targets: dict = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of what the model sees of the latent."""
        return self.crop[:2] if self.crop else self.latent

    @property
    def phrases(self) -> list[str]:
        return [target.phrase for target in self.targets(*self.size, torch.device("cpu"))]

    @property
    def strengths(self) -> list[float]:
        """Of the highlights, in the order of `phrases`."""
        return [target.strength for target in self.targets(*self.size, torch.device("cpu"))]

    def targets(self, height: int, width: int, device: torch.device) -> list[Target]:
        """Targets on the map grid (height, width), drawn once a run."""
        key = (height, width, device)
        if key not in self._targets:
            with torch.inference_mode(False):  # autograd has to save them
                self._targets[key] = self._build(height, width, device)
        return self._targets[key]

    def _build(self, height: int, width: int, device: torch.device) -> list[Target]:
        if self.crop is None:
            return build_targets(self.bound, height, width, self.looseness, device)
        cropped = [_cropped(target, self.crop) for target in build_targets(self.bound, *self.latent, self.looseness)]
        visible = [target for target in cropped if float(target.attract.max()) > VISIBLE]
        return [_resized(target, height, width, device) for target in visible]


def _cropped(target: Target, crop: tuple[int, int, int, int]) -> Target:
    h, w, y, x = crop
    grids = ("instances", "parts", "attract", "suppress")
    cut = {name: getattr(target, name)[..., y : y + h, x : x + w] for name in grids}
    return replace(target, **cut)


def _resized(target: Target, height: int, width: int, device: torch.device) -> Target:
    """Area means of a cropped target; attract is scaled to its peak again, so that thin strokes keep their weight."""

    def mean(grid: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(grid[None], (height, width))[0].to(device)

    instances = mean(target.instances)
    inside = instances.amax((-2, -1)) > 0  # other objects of the phrase may be outside the area
    instances, parts = instances[inside], mean(target.parts)[inside]
    parts = parts / parts.sum(0).clamp_min(1e-6)
    attract = mean(target.attract[None])[0]
    attract = attract / attract.max()
    suppress = torch.minimum(mean(target.suppress[None])[0], 1 - attract)
    neutral = 1 - attract - suppress
    return replace(target, instances=instances, parts=parts, attract=attract, neutral=neutral, suppress=suppress)


def scenes(conds: dict[str, list[dict]], latent: tuple[int, int], looseness: float) -> list[Scene]:
    """The scenes of a guider's prepared `conds`, for a latent (h, w).

    Raises a LimelightError where highlights and conditioning do not belong together.
    """
    found = []
    for name, entries in conds.items():
        for cond in entries if name not in NEGATIVE else ():
            bound = cond.get(KEY)
            if bound is None or not any(item["strength"] > 0 for item in bound["highlights"]):
                continue
            _check(cond, bound)
            crop = crop_of(cond, latent)
            scene = Scene(cond, bound, latent, crop, looseness)
            if scene.phrases:
                found.append(scene)
    return found


def tell_apart(found: list[Scene], conds: dict[str, list[dict]]) -> None:
    """Give each scene an id of its own, by which the host names the rows of a batch: for regional prompts it copies a
    conditioning, id and all, to the other side. `conds` are those of this run."""
    ids = [cond["uuid"] for entries in conds.values() for cond in entries]
    for scene in found:
        if ids.count(scene.cond["uuid"]) > 1:
            scene.cond["uuid"] = uuid.uuid4()


def crop_of(cond: dict, latent: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The host's area (h, w, y, x), cut at the border of the latent as the host does."""
    area = cond.get("area")
    if area is None:
        return None
    (h, w), (y, x) = area[len(area) // 2 - 2 : len(area) // 2], area[-2:]  # a film's has a time in front of each
    return min(latent[0] - y, h), min(latent[1] - x, w), y, x


def _check(cond: dict, bound: dict) -> None:
    if bound.get("version") != 1:
        raise LimelightError(
            f"positive: the highlights on this conditioning have version {bound.get('version')!r}, expected 1. "
            "Encode the prompt again with Highlight Prompt of this version of Limelight."
        )
    length = cond["cross_attn"].shape[1]
    named = [token for item in bound["highlights"] for token in item["tokens"]]
    highest = max([*bound["text_tokens"], *named], default=-1)
    if highest >= length:
        raise LimelightError(
            f"positive: a highlight names token {highest}, but the conditioning has {length} tokens. Another node has "
            "shortened it after Highlight Prompt; put Highlight Bind behind that node instead."
        )
