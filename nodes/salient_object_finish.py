"""Nodes that finish a product picture: the subject's own pixels on top, and its shadow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance import checks
from ..guidance.errors import LimelightError
from ..guidance.expansion import composite, place, shadow
from . import tensors
from .salient_object_place import CATEGORY
from .schema import Placement, advanced

PICTURE, SUBJECT = "the picture's", "the subject's"
RESOLUTIONS = [PICTURE, SUBJECT]


class LimelightCompositeSubject(io.ComfyNode):
    """Generated picture + original product -> the product's own pixels in the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightCompositeSubject",
            display_name="Composite Subject",
            category=CATEGORY,
            description="Puts the product's own pixels back over the generated picture, with a rim that has lost its "
            "old background, and with colours and light that fit. Text and logos come out as they were.",
            inputs=[
                io.Image.Input("image", tooltip="The generated pictures. Of any size, in the canvas' format."),
                io.Image.Input("subject", tooltip="The original product, as large as there is. One, or one a picture."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is the product in subject. Without one its transparency counts.",
                ),
                Placement.Input(
                    "placement",
                    optional=True,
                    tooltip="From Place Subject. Without it the subject fills the picture's frame as it is.",
                ),
                io.Image.Input(
                    "shadow",
                    optional=True,
                    tooltip="A layer with transparency, from Subject Shadow: laid over the picture, under the subject.",
                ),
                io.Combo.Input(
                    "resolution",
                    options=RESOLUTIONS,
                    default=PICTURE,
                    tooltip="The picture's: the subject is resampled to it. The subject's: the picture is enlarged or "
                    "reduced until every pixel of the subject is its own.",
                ),
                io.Boolean.Input(
                    "clean_rim",
                    default=True,
                    tooltip="Takes the old background's colour out of the soft edge. Off: the plain paste.",
                ),
                io.Float.Input(
                    "match",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Takes back the colour shift that the model has given the picture, as seen in the "
                    "subject's place. 0 leaves the picture.",
                ),
                io.Float.Input(
                    "harmonise",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the subject's brightness, in the large, follows the picture around it. At 0 its "
                    "pixels stay as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The finished pictures."),
                io.Mask.Output(display_name="mask", tooltip="The subject's opacity in them."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        subject,
        mask=None,
        placement=None,
        shadow=None,
        resolution=PICTURE,
        clean_rim=True,
        match=1.0,
        harmonise=0.0,
    ) -> io.NodeOutput:
        pictures = tensors.pixels(image)
        colours, opacities = tensors.cutouts(subject, mask, "subject")
        if resolution not in RESOLUTIONS:
            raise LimelightError(
                f"resolution: found {checks.show(resolution)}; expected one of {', '.join(RESOLUTIONS)}."
            )
        clean_rim, match = checks.flag(clean_rim, "clean_rim"), checks.number(match, "match", 0, 1)
        harmonise = checks.number(harmonise, "harmonise", 0, 1)
        places = _places(placement, colours, pictures)
        layers = [None] if shadow is None else _layers(shadow, pictures)
        counts = {"image": len(pictures), "subject": len(colours), "placement": len(places), "shadow": len(layers)}
        count = max(len(pictures), len(colours))
        for name, found in counts.items():
            if found not in (1, count):
                raise LimelightError(f"{name}: found {found} in the batch; expected one, or {count} as of the others.")
        pictured, masks = [], []
        for i in range(count):
            picture, number = pictures[i % len(pictures)], i % len(colours)
            one, layer = places[i % len(places)], layers[i % len(layers)]
            one = one.original() if resolution == SUBJECT else one.on(picture.shape[1], picture.shape[0])
            cut = colours[number], opacities[number]
            made, opacity = composite.composed(picture, *cut, one, layer, clean_rim, match, harmonise)
            pictured.append(made)
            masks.append(opacity)
        if len({made.shape for made in pictured}) > 1:
            sizes = ", ".join(f"{made.shape[1]} x {made.shape[0]}" for made in pictured)
            raise LimelightError(
                f"resolution: at the subjects' own pixels the pictures of the batch differ in size ({sizes}), which "
                "one batch cannot hold. Finish them one by one, place all at the same scale, or keep the picture's."
            )
        return io.NodeOutput(tensors.batch(pictured), torch.from_numpy(np.stack(masks)))


class LimelightSubjectShadow(io.ComfyNode):
    """Mask of the subject -> its shadow as a layer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightSubjectShadow",
            display_name="Subject Shadow",
            category=CATEGORY,
            description="The shadow that a standing product throws: a dark line where it touches the floor, and its "
            "shape laid on the floor. A layer of its own, for Composite Subject.",
            inputs=[
                io.Mask.Input("mask", tooltip="White is the subject on its canvas, from Place Subject."),
                io.Float.Input(
                    "contact",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How dark the line is where the subject stands. 0 for one that hangs.",
                ),
                io.Float.Input(
                    "soft", default=0.35, min=0.0, max=1.0, step=0.05, tooltip="How dark the shadow on the floor is."
                ),
                io.Float.Input(
                    "direction",
                    default=30.0,
                    min=-180.0,
                    max=180.0,
                    step=5.0,
                    tooltip="Where it falls, in degrees: 0 to the right, 90 towards the viewer, 180 to the left, -90 "
                    "away.",
                ),
                io.Float.Input(
                    "length",
                    default=60.0,
                    min=0.0,
                    max=300.0,
                    step=5.0,
                    tooltip="On the floor, in percent of the subject's height: the lower the light, the longer.",
                ),
                io.Float.Input(
                    "softness",
                    default=6.0,
                    min=0.0,
                    max=50.0,
                    step=0.5,
                    tooltip="Blur at the shadow's far end, in percent of the subject's height. It is less at the foot.",
                ),
                advanced(
                    io.Float.Input(
                        "contact_size",
                        default=4.0,
                        min=0.5,
                        max=25.0,
                        step=0.5,
                        tooltip="How far the dark line spreads, in percent of the subject's height.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "fade",
                        default=0.7,
                        min=0.0,
                        max=1.0,
                        step=0.05,
                        tooltip="How much of its darkness the shadow loses on the way to its far end.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="shadow", tooltip="The shadow alone: black with transparency."),
                io.Mask.Output(display_name="mask", tooltip="Its opacity."),
            ],
        )

    @classmethod
    def execute(
        cls, mask, contact=0.6, soft=0.35, direction=30.0, length=60.0, softness=6.0, contact_size=4.0, fade=0.7
    ) -> io.NodeOutput:
        subjects = place.opacity(tensors.saliency(mask, "mask"))
        contact, soft = checks.number(contact, "contact", 0, 1), checks.number(soft, "soft", 0, 1)
        shape = {
            "direction": checks.number(direction, "direction", -180, 180),
            "length": checks.number(length, "length", 0, 300),
            "softness": checks.number(softness, "softness", 0, 50),
            "fade": checks.number(fade, "fade", 0, 1),
        }
        reach = checks.number(contact_size, "contact_size", 0.5, 25)
        shadows = []
        for number, alpha in enumerate(subjects, 1):
            if not alpha.any():
                raise LimelightError(
                    f"mask {number} of {len(subjects)}: found an empty one (nothing is white); expected the subject."
                )
            parts = contact * shadow.contact(alpha, reach), soft * shadow.cast(alpha, **shape)
            shadows.append(shadow.joined(*parts).astype(np.float32))
        opacity = torch.from_numpy(np.stack(shadows))
        return io.NodeOutput(torch.cat([torch.zeros(*opacity.shape, 3), opacity[..., None]], 3), opacity)


NODES = [LimelightCompositeSubject, LimelightSubjectShadow]


def _places(placement: Any, colours: np.ndarray, pictures: np.ndarray) -> list[place.Placement]:
    """The placements, for a source of the subjects' size; the whole frame without any."""
    size, frame = colours.shape[2:0:-1], pictures.shape[2:0:-1]
    if placement is None:
        places = [place.Placement(size, size, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))]
    else:
        listed = checks.listed(placement, "placement", 1, 4096, "placements")
        places = [place.Placement.from_dict(one) for one in listed]
    for one in places:
        for name, given, known in (("subject", size, one.source), ("image", frame, one.canvas)):
            if not place.alike(given, known):
                raise LimelightError(
                    f"{name}: found {given[0]} x {given[1]} pixels, but the subject was placed with {known[0]} x "
                    f"{known[1]}; expected the same aspect ratio. Connect the original and the picture that belong to "
                    "the placement."
                )
    return [one.of(*size) for one in places]


def _layers(shadow: Any, pictures: np.ndarray) -> np.ndarray:
    """The shadow's RGBA layers, (B, h, w, 4)."""
    colour = tensors.pixels(shadow, "shadow")
    if shadow.shape[-1] != 4:
        raise LimelightError(
            "shadow: found an image without transparency; expected a layer with it. Connect Subject Shadow's layer."
        )
    if not place.alike(colour.shape[2:0:-1], pictures.shape[2:0:-1]):
        raise LimelightError(
            f"shadow: found {colour.shape[2]} x {colour.shape[1]} pixels for a picture of {pictures.shape[2]} x "
            f"{pictures.shape[1]}; expected the same aspect ratio. Make it of the mask on the canvas."
        )
    return np.concatenate([colour, shadow[..., 3:].detach().float().cpu().numpy()], 3)
