"""Nodes that ground highlights with GLIGEN: a model that was trained to put phrases into boxes."""

from __future__ import annotations

import logging
from typing import Any

import folder_paths
from comfy_api.latest import io
from node_helpers import conditioning_set_values

from ..guidance import checks
from ..guidance.attention.grounding import MARGIN, Grounded, Grounding
from ..guidance.attention.grounding_run import with_hook
from ..guidance.errors import LimelightError
from ..guidance.prompts.binding import KEY
from ..guidance.regions.document import Instance, parse, parse_instances
from ..models import files, gligen, gligen_files, gligen_keys
from ..models.gligen_phrases import check_width, phrase_feature
from .schema import Highlights, advanced, percent

CATEGORY = "limelight/highlight"


class LimelightGLIGENLoader(io.ComfyNode):
    """GLIGEN file -> GLIGEN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightGLIGENLoader",
            display_name="Load GLIGEN (text box)",
            category=CATEGORY,
            description="Loads a text-box GLIGEN: the pruned safetensors, the original checkpoint, the UNet of a "
            "diffusers folder, and GLIGEN-XL for SDXL.",
            inputs=[
                io.Combo.Input(
                    "gligen_name",
                    options=files.offered(folder_paths.get_filename_list("gligen")),
                    tooltip="A file in models/gligen. Of a diffusers folder take the file in its folder 'unet'; of a "
                    "model in several files the first.",
                )
            ],
            outputs=[
                io.Gligen.Output(
                    display_name="gligen",
                    tooltip="The model, for Highlight GLIGEN. ComfyUI's GLIGENTextBoxApply can use it too.",
                )
            ],
        )

    @classmethod
    def execute(cls, gligen_name: str) -> io.NodeOutput:
        state = gligen_files.load_state(folder_paths.get_full_path_or_raise("gligen", gligen_name))
        return io.NodeOutput(gligen.build(gligen_keys.read(state, f"gligen_name ({gligen_name})")))


class LimelightHighlightGLIGEN(io.ComfyNode):
    """CONDITIONING -> CONDITIONING whose highlights are grounded by GLIGEN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LimelightHighlightGLIGEN",
            display_name="Highlight GLIGEN",
            category=CATEGORY,
            description="Puts each highlighted object into a box around its strokes, with a GLIGEN model. One box an "
            "object, 30 at most. Works with Highlight Guidance or without it.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The encoded prompt. Highlights on it are grounded."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The negative prompt. It is told that there is no object anywhere, as GLIGEN was trained.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint. It encodes the phrases."),
                io.Gligen.Input("gligen_textbox_model", tooltip="From Load GLIGEN (text box)."),
                Highlights.Input(
                    "highlights",
                    optional=True,
                    tooltip="Which phrase goes where. Left empty, the highlights on the positive prompt count "
                    "(Highlight Prompt, Highlight Bind).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much the boxes count. 1 is as GLIGEN was trained; 0 is exactly without it.",
                ),
                percent("start_percent", 0.0, "Where on the noise schedule grounding begins. 0 is pure noise."),
                percent(
                    "end_percent",
                    0.3,
                    "Where on the noise schedule grounding ends. The first 30 % decide where things are; later "
                    "grounding costs quality and time.",
                ),
                advanced(
                    io.Float.Input(
                        "margin",
                        default=MARGIN,
                        min=0.0,
                        max=0.5,
                        step=0.01,
                        tooltip="Free space around the shapes of an object in its box, as a share of the image.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "parallel",
                        default=False,
                        tooltip="On: boxes act beside the prompt instead of before it (ReGround), so that they drown "
                        "out less of what else the prompt says. Off: as in GLIGEN.",
                    )
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with its objects grounded."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt, with no object."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        clip: Any,
        gligen_textbox_model: Any,
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 0.3,
        margin: float = MARGIN,
        parallel: bool = False,
        highlights: dict | None = None,
    ) -> io.NodeOutput:
        window = checks.window(start_percent, end_percent, "nothing would be grounded", "turn grounding off")
        settings: dict[str, Any] = {"window": window, "parallel": bool(parallel)}
        settings["strength"] = checks.number(strength, "strength", 0, 2)
        settings["margin"] = checks.number(margin, "margin", 0, 0.5)
        model = gligen_textbox_model
        if not isinstance(getattr(model, "model", None), gligen.TextBoxGligen):
            raise LimelightError(
                "gligen_textbox_model: found a model of another loader. Load the same file with Load GLIGEN (text box)."
            )
        document = None if highlights is None else parse(highlights)
        objects = [_objects(options.get(KEY), document) for _, options in positive]
        if settings["strength"] == 0 or not any(objects):
            logging.info("Limelight: no highlights for GLIGEN, or its strength is 0; nothing is grounded.")
            return io.NodeOutput(positive, negative)
        features = {phrase: phrase_feature(clip, phrase) for each in objects for phrase, *_ in each}
        for feature in features.values():
            check_width(feature, model.model.key_dim)
        grounded = []
        for (tensor, options), each in zip(positive, objects, strict=True):
            entries = [Grounded.of(phrase, features[phrase], instance, index) for phrase, instance, index in each]
            entries = [*_stock_boxes(options, model), *entries] if entries else []
            gligen.check_count(len(entries))
            value = {"gligen": ("position", model, Grounding(entries, **settings))} if entries else {}
            grounded += conditioning_set_values([[tensor, options]], value)
        empty = conditioning_set_values(negative, {"gligen": ("position", model, Grounding(**settings))})
        return io.NodeOutput(*with_hook(grounded, empty))


NODES = [LimelightGLIGENLoader, LimelightHighlightGLIGEN]


def _objects(bound: dict | None, document: Any) -> list[tuple[str, Instance, int | None]]:
    """Phrase and region of every object of the document, or else of what is bound to the conditioning, with the index
    of its bound highlight."""
    found: list[tuple[str, float, tuple[Instance, ...], int | None]]
    if document is not None:
        found = [(item.phrase, item.strength, item.instances, None) for item in document.highlights]
    else:
        found = [
            (item["phrase"], item["strength"], parse_instances(item["instances"], f"highlights[{i}].instances"), i)
            for i, item in enumerate(bound["highlights"] if bound else ())
        ]
    return [(phrase, one, i) for phrase, strength, instances, i in found if strength > 0 for one in instances]


def _stock_boxes(options: dict, model: Any) -> list:
    """Boxes that ComfyUI's own node has put there with the same model; those of an earlier Highlight GLIGEN go."""
    before = options.get("gligen")
    if before is None or before[0] != "position":
        return []
    stock = [entry for entry in before[2] if not isinstance(entry, Grounded)]
    if stock and before[1].model is not model.model:
        raise LimelightError(
            "positive: it has boxes of another GLIGEN model already, and only one can ground it. Connect the same "
            "model to both nodes, or take one of them out."
        )
    return stock
