"""Train a T2I-Adapter that acts in a region: lines are followed there, and the rest stays the base model's.

    python -m limelight.training.train_local_adapter --pretrained_model_name_or_path stable-diffusion-v1-5 \\
        --train_data_dir data/edges --output_dir runs/local

Full and light adapters for Stable Diffusion 1 and 2, full ones for XL, from nothing or from a given file. The data set
has a picture, a caption and a hint (`hint_file_name` in an imagefolder, KEY.hint.png in shards), and may have masks;
prepare_local_control makes one. Several GPUs: `accelerate launch -m ...`. A run that was stopped goes on with
--resume_from_checkpoint latest.

In which region a sample is controlled is drawn anew at each step. The loss is the mean squared error, plus what the
region's edges are off in the clean latent that the model believes in, plus what the adapter changes outside. Edges
count alike at all times: at much noise, where a picture is laid out, the mean squared error says little about them.

The preset paper does it as the published code of arXiv 2602.01991 does: boxes as regions, nearest masks, magnitudes of
edges, averaged over the whole latent, of constant weight (0.1, as in its settings; its evaluated run seems to have had
--edge_loss_weight 1e-3 --learning_rate 8e-5), mostly noisy times, every second caption empty. The preset global differs
from it only in having no regions at all, and so no loss of edges: an ordinary T2I-Adapter.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..guidance.local import edges, score
from ..guidance.local.region import WHERE
from ..models.adapter_files import metadata
from ..tools.console import main_guard
from . import adapters, control, local_loss, masks, noise, options, preview, run
from .base import Base
from .draws import Draws
from .task import Batch
from .views import cover

CURRICULUM, BOXES, EVERYWHERE = REGIONS = "curriculum", "bbox", "full"
TIMES = {"cubic": noise.cubic_times, "uniform": noise.uniform_times}
BOXES_TRIED = 16  # for each row of a sheet
GRID = 256  # cells of the short side, at least, on which regions of the curriculum are drawn
PAPER = {
    "resolution": [512],
    "max_train_steps": 25_000,
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1.6e-4,  # 1e-5 times the samples of a step
    "lr_scheduler": "constant_with_warmup",  # theirs falls to 0 over 50 epochs, of which this is the first twentieth
    "lr_warmup_steps": 500,
    "mixed_precision": "no",
    "max_grad_norm": 1.0,
    "proportion_empty_prompts": 0.5,
    "checkpointing_steps": 2500,
    "validation_steps": 2500,
    "seed": 42,
    "adapter_type": adapters.FULL,
    "hint_channels": 1,
    "regions": BOXES,
    "mask_mode": "features",
    "level_masks": adapters.NEAREST,
    "timesteps": "cubic",
    "edge_loss_weight": 0.1,
    "edge_loss_times": local_loss.CONSTANT,
    "edge_gradients": local_loss.MAGNITUDE,
    "edge_by_area": False,
    "outside_loss_weight": 0.0,
    "random_flip": False,
}
PRESETS = {"paper": PAPER, "global": PAPER | {"regions": EVERYWHERE, "edge_loss_weight": 0.0}}


class LocalAdapter:
    """The task: the frozen UNet's loss under the adapter's features in a region."""

    name = "local-adapter"

    def __init__(self, base: Base, settings: argparse.Namespace):
        self.base, self.options = base, settings
        form = adapters.form_for(base, settings.adapter_type, settings.hint_channels)
        self.network = adapters.build(base, form, settings.adapter_model_name_or_path, settings.seed)
        self.images = ("hint", "mask") if settings.sample_masks else ("hint",)
        coarse = 1
        while settings.regions != BOXES and min(settings.resolution) >= 2 * coarse * GRID:
            coarse *= 2  # a power of two: it divides every cell of every level
        self.grid = settings.resolution[1] // coarse, settings.resolution[0] // coarse
        self.settings = {
            "resolution": settings.resolution,
            "flip": settings.random_flip,
            "hint_channels": settings.hint_channels,
            "masks": self.grid if settings.sample_masks else None,
        }

    def views(self, sample: dict[str, Any], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
        """The picture, its hint and, with --sample_masks, its mask, covering the resolution; with --random_flip also
        mirrored."""
        size = self.options.resolution
        hint = np.asarray(cover(sample["hint"].convert("L" if self.options.hint_channels == 1 else "RGB"), *size))
        view = {"image": np.asarray(cover(sample["image"], *size)), "hint": hint.reshape(*hint.shape[:2], -1)}
        if self.options.sample_masks:
            mask = cover(sample["mask"].convert("L"), *size)
            view["mask"] = np.asarray(mask.resize(self.grid[::-1], Image.Resampling.BOX))
        return [view, {name: one[:, ::-1] for name, one in view.items()}] if self.options.random_flip else [view]

    def encode(self, views: list[dict[str, np.ndarray]]) -> list[Batch]:
        """-> "moments" (2 C, h, w) of the latents; "hint" (channels, H, W), uint8; "mask", uint8, on `grid`."""
        moments = self.base.encode_images(np.stack([view["image"] for view in views]))
        return [
            {"moments": one, "hint": torch.from_numpy(view["hint"].copy()).movedim(-1, 0).contiguous()}
            | ({"mask": torch.from_numpy(view["mask"].copy())} if "mask" in view else {})
            for one, view in zip(moments, views, strict=True)
        ]

    def loss(self, batch: Batch, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See the module and `local_loss`. Drawn of each sample: its latent, the noise, the time, the region."""
        base, options = self.base, self.options
        clean = control.clean_latents(base, batch["moments"], draws)
        given = control.noised(base, clean, draws, TIMES[options.timesteps])
        region = self._region(batch, draws)
        features = self._features(batch, region, draws)
        output = adapters.predict(base, given.noisy, given.t, base.conditioning(batch), features).float()
        losses = control.errors(base, given, output, options.snr_gamma)
        told = {"mse": losses.detach().mean()}
        if region is None:
            return losses, told
        inside = draws.to_device(adapters.level_masks(region, [clean.shape[2:]], options.level_masks)[0])
        if options.edge_loss_weight:
            off = self._edges(given, output, inside)
            losses = losses + options.edge_loss_weight * off
            told["edge_loss"] = off.detach().mean()
        if options.outside_loss_weight:
            off = self._outside(batch, given, output, inside, draws)
            losses = losses + options.outside_loss_weight * off
            told["outside_loss"] = off.detach().mean()
        return losses, told

    def _edges(self, given: control.Noised, output: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """(B,): weighted by time. inside: the region on the latents' grid."""
        base, options = self.base, self.options
        weights = local_loss.edge_weights(given.level, given.t >= base.times // 2, options.edge_loss_times)
        with torch.autocast(output.device.type, enabled=False):
            estimate = local_loss.clean_estimate(given.noisy, output, given.level, base.prediction)
            off = local_loss.edge_loss(estimate, given.clean, inside, options.edge_gradients, options.edge_by_area)
        return weights * off

    def _outside(
        self, batch: Batch, given: control.Noised, output: torch.Tensor, inside: torch.Tensor, draws: Draws
    ) -> torch.Tensor:
        """(B,): 0 for samples that are not looked at, the others count the more. Numbers say which they are; those in
        a batch follow each other."""
        every = self.options.outside_every
        part = slice(-draws.numbers[0] % every, None, every)
        told = self.base.conditioning({name: value[part] for name, value in batch.items()})
        found = torch.zeros(len(output), device=output.device)
        if len(found[part]):
            with torch.no_grad():
                plain = adapters.predict(self.base, given.noisy[part], given.t[part], told).float()
            found[part] = every * local_loss.outside_loss(output[part], plain, inside[part])
        return found

    def _region(self, batch: Batch, draws: Draws) -> torch.Tensor | None:
        """(B, h, w) on the CPU, or None: everywhere."""
        if self.options.regions == EVERYWHERE:
            return None
        if self.options.regions == BOXES:
            return draws.each(lambda generator, _: masks.published_box(generator, *self.grid))
        # from the device they have to be waited for
        own = batch["mask"].cpu().float() / 255 if "mask" in batch else None
        return draws.each(lambda generator, i: masks.draw(generator, *self.grid, None if own is None else own[i]))

    def _shown(self, generator: torch.Generator, hint: torch.Tensor) -> torch.Tensor:
        """A region for the sheet: of a few boxes the one that holds most of the hint (channels, H, W) for its size."""
        lines = F.adaptive_avg_pool2d(hint.float().mean(0, keepdim=True), self.grid)[0]
        boxes = [masks.draw(generator, *self.grid, shape="box") for _ in range(BOXES_TRIED)]
        held = [float((box * lines).sum() / lines.sum().clamp(min=1e-6) - box.mean()) for box in boxes]
        return boxes[held.index(max(held))]

    def _features(
        self, batch: Batch, region: torch.Tensor | None, draws: Draws, where: str | None = None
    ) -> list[torch.Tensor]:
        """What is added to the UNet. where: one of `WHERE`, if not as the options say."""
        hint, where = batch["hint"].float() / 255, where or self.options.mask_mode
        if region is not None and where != "features":
            keep = draws.to_device(adapters.near(region, hint.shape[-1], self.network.form))
            hint = hint * F.interpolate(keep, hint.shape[-2:], mode="bilinear")
        features = self.network(hint)
        if region is None or where == "hint":
            return features
        sizes = [tuple(one.shape[-2:]) for one in features]
        levels = adapters.level_masks(region, sizes, self.options.level_masks)
        return [one * draws.to_device(mask) for one, mask in zip(features, levels, strict=True)]

    def validate(self, batch: Batch, empty: Batch, draws: Draws) -> tuple[list[Image.Image], dict[str, float]]:
        """Rows of: the hint, a region, what is made without and with the adapter from the same noise. "edge_f1" inside
        of the region against the picture's own edges, "outside_change" in levels of 0 to 255, the means.

        An adapter trained without regions is shown with the hint masked, the only way that is left."""
        base = self.base
        start = draws.normal(batch["moments"].shape[1] // 2, *batch["moments"].shape[2:])
        region = draws.each(lambda generator, i: self._shown(generator, batch["hint"][i].cpu()))
        features = self._features(batch, region, draws, "hint" if self.options.regions == EVERYWHERE else None)

        def pictures(added: list[torch.Tensor]) -> list[np.ndarray]:
            def predict(z: torch.Tensor, t: torch.Tensor, text: Batch) -> torch.Tensor:
                return adapters.predict(base, z, t, base.conditioning({**batch, **text}), added)

            made = preview.sample(base, start, {}, empty, predict, scale=self.options.validation_scale)
            return preview.images(base.decode(made))

        size = batch["hint"].shape[-2:]
        regions = F.interpolate(region[:, None], size).numpy()[:, 0]
        plain, made = pictures([]), pictures(features)
        given = preview.images(base.decode(base.latents(batch["moments"], None)))
        rows, found = [], []
        for one, inside, without, with_, source in zip(batch["hint"], regions, plain, made, given, strict=True):
            hint = one.cpu().numpy().transpose(1, 2, 0)
            shown = (np.broadcast_to(hint, (*size, 3)), (255 * inside).astype(np.uint8), without, with_)
            rows.append(preview.row(shown))
            without, with_, source = (picture.astype(np.float32) / 255 for picture in (without, with_, source))
            edge = score.match(edges.canny(with_), edges.canny(source), inside >= 0.5)["f1"]
            found.append((edge, 255 * score.outside_change(with_, without, inside)))
        figures: dict[str, float] = {}
        for name, values in zip(("edge_f1", "outside_change"), zip(*found, strict=True), strict=True):
            known = [value for value in values if not math.isnan(value)]
            figures |= {name: sum(known) / len(known)} if known else {}
        return rows, figures

    def export(self, folder: Path) -> list[Path]:
        """Both layouts, see `adapters.write`. An adapter without regions has no mode of masks."""
        given = self.options
        about = control.described(self.base, given, "local T2I-Adapter", given.hint_kind)
        mode = "none" if given.regions == EVERYWHERE else given.mask_mode
        about |= metadata(self.network, hint=given.hint_kind, mask_mode=mode)
        return adapters.write(folder, f"local_adapter_{self.base.kind.lower()}", self.network, about)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see --help."""
    made = options.parser(__name__ if __name__ != "__main__" else Path(__file__).stem, __doc__, PRESETS)
    made.set_defaults(learning_rate=8e-5, proportion_empty_prompts=0.5)
    add = made.add_argument_group("adapter").add_argument
    add("--adapter_type", choices=adapters.KINDS, default=adapters.FULL, help="light is for SD 1 and 2 only")
    add("--adapter_model_name_or_path", type=Path, metavar="PATH", help="weights to start from, in any layout")
    add("--hint_channels", type=int, choices=(1, 3), default=1, help="(default %(default)s)")
    add("--hint_kind", default="canny", metavar="NAME", help="what hints show, for the file (default %(default)s)")
    add("--random_flip", action=argparse.BooleanOptionalAction, default=True, help="every sample also mirrored")
    add("--timesteps", choices=tuple(TIMES), default="cubic", help="cubic: mostly noisy ones (default %(default)s)")
    add("--validation_scale", type=float, default=preview.SCALE, metavar="X", help="guidance (default %(default)s)")
    add = made.add_argument_group("regions").add_argument
    add("--regions", choices=REGIONS, default=CURRICULUM, help="shapes of all sizes; published boxes; none at all")
    add("--sample_masks", action="store_true", help="the data set has masks (column mask): now and then one of these")
    add("--mask_mode", choices=WHERE, default=WHERE[0], help="what the region is put on (default %(default)s)")
    add("--level_masks", choices=(adapters.AREA, adapters.NEAREST), default=adapters.AREA, help="how it is resized")
    add = made.add_argument_group("losses").add_argument
    add("--edge_loss_weight", type=float, default=0.1, metavar="X", help="of edges in the region (default %(default)s)")
    add("--edge_loss_times", choices=local_loss.WEIGHTS, default=local_loss.CONSTANT, help="(default %(default)s)")
    add("--edge_gradients", choices=local_loss.GRADIENTS, default=local_loss.SIGNED, help="(default %(default)s)")
    add("--edge_by_area", action=argparse.BooleanOptionalAction, default=True, help="mean over the region alone")
    add("--outside_loss_weight", type=float, default=1.0, metavar="X", help="of changes outside (default %(default)s)")
    add("--outside_every", type=int, default=2, metavar="N", help="of every so many samples (default %(default)s)")
    given = options.parse(made, argv, PRESETS)
    if min(given.edge_loss_weight, given.outside_loss_weight) < 0 or given.outside_every < 1:
        made.error("weights of losses have to be 0 or more, --outside_every 1 or more")
    if given.regions == EVERYWHERE and (given.edge_loss_weight or given.outside_loss_weight or given.sample_masks):
        made.error(f"--regions {EVERYWHERE} leaves nothing outside: expected no --sample_masks, --edge_loss_weight 0 "
                   "and --outside_loss_weight 0 with it")  # fmt: skip
    if given.sample_masks and given.regions != CURRICULUM:
        made.error(f"--sample_masks: expected --regions {CURRICULUM} with it")
    return given


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trainer."""
    run.main(LocalAdapter, arguments(argv))


if __name__ == "__main__":
    sys.exit(main_guard(main))
