"""The node that makes a model draw viewers' eyes where a map says, while sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.saliency import decoders, guidance, through
from ..guidance.saliency.guidance import END, START, Steps, Wish
from ..models.saliency import Predictor
from . import tensors
from .saliency_maps import CATEGORY
from .schema import SaliencyPredictor, advanced, percent

AUTO = "automatic"
THROUGH, PREDICTION = "through the model", "prediction only"
METHODS = {THROUGH: through.attach, PREDICTION: guidance.attach}
DECODERS = [AUTO, decoders.VAE, decoders.TINY, decoders.PREVIEW]


class LimelightSaliencyGuidance(io.ComfyNode):
    """MODEL -> MODEL whose pictures are looked at where the map says."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSaliencyGuidance",
            display_name="Saliency Guidance",
            category=CATEGORY,
            description="While sampling, moves the picture so that a saliency predictor would look where the map says. "
            "Needs no ControlNet and no training, and works with any sampler. Check the result with another predictor "
            "than the one that guided.",
            inputs=[
                io.Model.Input("model", tooltip="Any image model, with LoRAs and patches as you like."),
                SaliencyPredictor.Input(
                    "predictor",
                    tooltip="From Load Saliency Predictor: whose eyes are to be drawn. It must pass "
                    "gradients on; all that the loader offers do.",
                ),
                io.Mask.Input(
                    "target",
                    tooltip="Where people should look: one map, or one for each image of the batch. Any size; it is "
                    "stretched over the picture. Only its shape counts, not how bright it is. If it is black, only "
                    "'suppress' counts.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How far the picture is moved. 0 turns guidance off: the result is that without this "
                    "node. Too much adds things that nobody asked for.",
                ),
                percent(
                    "start_percent",
                    START,
                    "Where on the noise schedule guidance begins. 0 is pure noise: where things are is decided "
                    "early, so leave it at 0 as a rule. Later, only colours and contrasts change.",
                ),
                percent(
                    "end_percent",
                    END,
                    "Where on the noise schedule guidance ends. What comes after it is the model's own work, "
                    "which makes real things of what guidance has begun.",
                ),
                io.Int.Input(
                    "iterations",
                    default=1,
                    min=1,
                    max=20,
                    tooltip="Updates at each step of the sampler. Each one looks at the predicted picture, forth and "
                    "back; through the model it takes as long as about two plain steps.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=DECODERS,
                    default=AUTO,
                    tooltip="How predictions become pictures to look at. 'VAE': the connected one, the most faithful. "
                    "'TAESD': the small decoder in models/vae_approx. 'preview colours': at once, coarse. 'automatic': "
                    "the first of these that there is.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=THROUGH,
                    tooltip="'through the model': the gradient passes the model, which moves its own things; for UNets "
                    "and the diffusion transformers that highlights work on, and it needs memory for a backward pass. "
                    "'prediction only': changes the prediction itself; weaker, for any model that the host can "
                    "preview, with little memory. Two or three iterations do it good.",
                ),
                io.Mask.Input(
                    "suppress",
                    optional=True,
                    tooltip="White is where people should not look, such as room for text. Any size.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE, for the decoder of that name."),
                advanced(
                    io.Float.Input(
                        "smoothness",
                        optional=True,
                        default=Steps.smoothness,
                        min=0.0,
                        max=20.0,
                        step=0.1,
                        tooltip="Of the method 'prediction only': how smooth a change is, in cells of the latent. 0 "
                        "lets in textures that please the predictor and nobody else.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "predictor_scale",
                        optional=True,
                        default=Steps.scale,
                        min=0.25,
                        max=3.0,
                        step=0.01,
                        tooltip="How large the picture appears to the predictor, 1 as a photograph on a desk. Seen "
                        "coarsely, as by default, whole things are moved and not outlines; and it is faster.",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The guided model, for any sampler node.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        predictor,
        target,
        strength,
        start_percent,
        end_percent,
        iterations,
        decoder=AUTO,
        method=THROUGH,
        suppress=None,
        vae=None,
        smoothness=Steps.smoothness,
        predictor_scale=Steps.scale,
    ) -> io.NodeOutput:
        if not isinstance(predictor, Predictor):
            raise LimelightError(
                f"predictor: found {checks.show(predictor)}; expected one from Load Saliency Predictor."
            )
        window = checks.window(start_percent, end_percent, "nothing would be guided", "turn guidance off")
        avoided = None if suppress is None else torch.from_numpy(tensors.saliency(suppress, "suppress"))
        wanted = torch.from_numpy(tensors.saliency(target, "target"))
        if not wanted.any() and avoided is not None and avoided.any():
            wanted = None  # an editor in which only blobs that suppress were drawn
        else:
            tensors.saliency(target, "target", flat=False)
        steps = Steps(
            iterations=checks.whole(iterations, "iterations", 1, 20),
            strength=checks.number(strength, "strength", 0.0, 10.0),
            smoothness=checks.number(smoothness, "smoothness", 0.0, 20.0),
            scale=checks.number(predictor_scale, "predictor_scale", 0.25, 3.0),
        )
        if method not in METHODS:
            raise LimelightError(f"method: found {checks.show(method)}; expected one of {', '.join(METHODS)}.")
        chosen = chosen_decoder(decoder, model.model.latent_format, vae)
        return io.NodeOutput(METHODS[method](model, predictor, chosen, Wish(wanted, avoided), steps, *window))


def chosen_decoder(choice: str, latent_format: Any, vae: Any) -> decoders.Decoder:
    """The decoder of that name for latents of that kind. Raises LimelightError where it lacks something."""
    if choice not in DECODERS:
        raise LimelightError(f"decoder: found {checks.show(choice)}; expected one of {', '.join(DECODERS)}.")
    name = getattr(latent_format, "taesd_decoder_name", None)
    # TAESD decoders of videos are networks of another kind: an image among video latents has the VAE and the colours
    names = folder_paths.get_filename_list("vae_approx") if name and latent_format.latent_dimensions == 2 else []
    file = next((each for each in names if each.startswith(name)), None)
    if choice == decoders.VAE or choice == AUTO and vae is not None:
        if vae is None:
            raise LimelightError("vae: found nothing; decoder 'VAE' needs the model's VAE. Connect it.")
        return decoders.full(vae, latent_format)
    if choice == decoders.TINY or choice == AUTO and file is not None:
        if file is None:
            wanted = f"a file whose name begins with {name!r}" if name else "one, but there is none for such latents"
            raise LimelightError(
                f"decoder: 'TAESD' needs {wanted} in models/vae_approx, and none is there. It is published at "
                "https://github.com/madebyollin/taesd; or use another decoder."
            )
        return decoders.tiny(Path(folder_paths.get_full_path_or_raise("vae_approx", file)), latent_format)
    return decoders.preview(latent_format)


NODES = [LimelightSaliencyGuidance]
