"""Nodes that predict where people will look at a picture."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.saliency.pictures import heat
from ..models import saliency_files
from ..models.saliency import Predictor
from ..models.unisal import DOMAINS
from . import tensors
from .saliency_maps import CATEGORY, NORMALISE, PEAK, normalised
from .schema import SaliencyPredictor, advanced

KIND = "saliency"

# A kind of model of its own. The user may have folders for it in extra_model_paths.yaml, which were read before this.
folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))
folder_paths.folder_names_and_paths[KIND][1].update(folder_paths.supported_pt_extensions)


class LimelightSaliencyPredictorLoader(io.ComfyNode):
    """File -> saliency predictor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        learned = [saliency_files.UNISAL, saliency_files.ADS, saliency_files.EMLNET]
        named = [saliency_files.CLASSIC, *learned, saliency_files.SIGNATURE]
        return io.Schema(
            node_id="LimelightSaliencyPredictorLoader",
            display_name="Load Saliency Predictor",
            category=CATEGORY,
            description="Loads a network that predicts where people look at a picture, from models/saliency; or one "
            "that needs no file and is much less accurate.",
            inputs=[
                io.Combo.Input(
                    saliency_files.INPUT,
                    options=[*named, *folder_paths.get_filename_list(KIND)],
                    default=named[0],
                    tooltip=f"'{named[1]}': photographs, the best choice as a rule. '{named[2]}': advertisements, "
                    f"posters, interfaces. '{named[3]}': made GazeFusion's training maps. '{named[0]}': only finds "
                    f"what stands out. '{named[4]}': the same by other means, a second opinion. Below them the files "
                    "in models/saliency.",
                ),
                advanced(
                    io.Combo.Input(
                        "domain",
                        optional=True,
                        options=list(DOMAINS),
                        default="SALICON",
                        tooltip="Whose viewers UNISAL predicts. SALICON looked at photographs, the others at videos. "
                        "Other predictors have no choice.",
                    )
                ),
            ],
            outputs=[
                SaliencyPredictor.Output(display_name="predictor", tooltip="The predictor, for Predict Saliency.")
            ],
        )

    @classmethod
    def execute(cls, predictor, domain="SALICON") -> io.NodeOutput:
        if domain not in DOMAINS:
            raise LimelightError(f"domain: found {checks.show(domain)}; expected one of {', '.join(DOMAINS)}.")
        if predictor in saliency_files.WEIGHTLESS:
            with torch.inference_mode(False):  # its constants must let gradients through
                return io.NodeOutput(Predictor.of(saliency_files.WEIGHTLESS[predictor]()))
        name = saliency_files.find(predictor, folder_paths.get_filename_list(KIND))
        path = Path(folder_paths.get_full_path_or_raise(KIND, name))
        return io.NodeOutput(Predictor.of(saliency_files.build(path, domain)))


class LimelightPredictSaliency(io.ComfyNode):
    """IMAGE -> saliency map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightPredictSaliency",
            display_name="Predict Saliency",
            category=CATEGORY,
            description="Predicts where people look in the first seconds. Pictures of any size: the predictor sees "
            "them reduced to its own, and its map is enlarged again, so that memory stays small.",
            inputs=[
                SaliencyPredictor.Input("predictor", tooltip="From Load Saliency Predictor."),
                io.Image.Input("image", tooltip="The picture, or a batch; each is seen by itself."),
                io.Combo.Input(
                    "normalize",
                    options=NORMALISE,
                    default=PEAK,
                    tooltip="The map's values. 'keep' is as the predictor gives them: EML-Net's tell how sure it is, "
                    "the others' have their peak at 1 in any case. 'stretch' is as in GazeFusion's training.",
                ),
                advanced(
                    io.Float.Input(
                        "predictor_scale",
                        optional=True,
                        default=1.0,
                        min=0.25,
                        max=3.0,
                        step=0.01,
                        tooltip="How much larger the picture appears than a photograph on a desk: from Viewing "
                        "Conditions. Small on a phone, large in a wide field of view. Time grows with its square.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "opacity",
                        optional=True,
                        default=0.55,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="Of the colours in the picture that shows the map.",
                    )
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="saliency", tooltip="The map, of the picture's size."),
                io.Image.Output(display_name="heat", tooltip="The picture under the map: red draws most, blue least."),
            ],
        )

    @classmethod
    def execute(cls, predictor, image, normalize=PEAK, predictor_scale=1.0, opacity=0.55) -> io.NodeOutput:
        if not isinstance(predictor, Predictor):
            raise LimelightError(
                f"predictor: found {checks.show(predictor)}; expected one from Load Saliency Predictor."
            )
        image = tensors.rgb(image)
        scale = checks.number(predictor_scale, "predictor_scale", 0.25, 3)
        opacity = checks.number(opacity, "opacity", 0, 1)
        if not image.isfinite().all():
            raise LimelightError(
                "image: found values that are not numbers (NaN or infinite); the sampler or the VAE went wrong. Try "
                "the VAE in full precision."
            )
        maps = predictor.predict(image.clamp(0, 1).cpu(), scale).clamp_(0, 1).numpy()
        for one in maps:
            one[:] = normalised(one, normalize)
        shown = torch.empty(image.shape)
        for i, (picture, one) in enumerate(zip(image.cpu().numpy(), maps, strict=True)):
            shown[i] = torch.from_numpy(heat(picture, one, opacity).astype(np.float32))
        return io.NodeOutput(torch.from_numpy(maps), shown)


NODES = [LimelightSaliencyPredictorLoader, LimelightPredictSaliency]
