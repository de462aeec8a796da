"""The small graphs that the help pages of the saliency nodes show; see `help_graphs`."""

from __future__ import annotations

from typing import Any

from .help_graphs import BAND, DOCUMENT, PICTURE, SCRIBBLES, Graph, Output, Place, mask, node


def wish(at: Place, **inputs: Any) -> Graph:
    """A map of where people should look, made of the ellipse."""
    made = node("LimelightSaliencyFromMask", at, mask=("mask", 0), **{"softness": 8.0, **inputs})
    return {"mask": mask(None), "wish": made}


def predicted(picture: Place, predict: Place, image: Output = ("picture", 0)) -> Graph:
    """A picture, and where people look in it or in another image."""
    return {
        "picture": node("LoadImage", picture, image=PICTURE),
        "load": node("LimelightSaliencyPredictorLoader", None),
        "predict": node("LimelightPredictSaliency", predict, predictor=("load", 0), image=image),
    }


FIXATIONS = "x, y, duration\n420, 250, 310\n470, 280, 240\n900, 480, 190\n"

GRAPHS: dict[str, Graph] = {
    "LimelightSaliencyFromMask": {
        "mask": mask((0, 0), (210, 330)),
        "here": node("LimelightSaliencyFromMask", (240, 0), (270, 0), mask=("mask", 0), softness=8.0),
        "shown": node("MaskPreview", (540, 0), (210, 280), mask=("here", 0)),
    },
    "LimelightSaliencyFromFixations": {
        "here": node("LimelightSaliencyFromFixations", (0, 0), (360, 0), fixations=FIXATIONS),
        "shown": node("MaskPreview", (390, 0), (330, 260), mask=("here", 0)),
    },
    "LimelightSaliencyAdjust": {
        **wish((0, 0)),
        "band": mask((0, 45), file=BAND),
        "here": node("LimelightSaliencyAdjust", (200, 0), (280, 0), saliency=("wish", 0), suppress=("band", 0)),
        "before": node("MaskPreview", (510, 0), (210, 280), "before", mask=("wish", 0)),
        "after": node("MaskPreview", (750, 0), (210, 280), "after", mask=("here", 0)),
    },
    "LimelightViewingConditions": {
        **wish((280, -60), softness=2.0),
        "desk": node("LimelightViewingConditions", (0, 0), (250, 0), display="desktop"),
        "here": node(
            "LimelightViewingConditions",
            (280, 0),
            (290, 0),
            display="phone, upright",
            saliency=("wish", 0),
            made_for=("desk", 0),
        ),
        "shown": node("MaskPreview", (600, 0), (210, 280), mask=("here", 4)),
    },
    "LimelightSaliencyPredictorLoader": {
        "here": node("LimelightSaliencyPredictorLoader", (0, 0), (300, 0)),
        "picture": node("LoadImage", (190, 120), image=PICTURE),
        "predict": node("LimelightPredictSaliency", (330, 0), (270, 0), predictor=("here", 0), image=("picture", 0)),
        "shown": node("PreviewImage", (630, 0), (210, 280), images=("predict", 1)),
    },
    "LimelightPredictSaliency": {
        "load": node("LimelightSaliencyPredictorLoader", (0, 0)),
        "picture": node("LoadImage", (0, 60), (210, 330), image=PICTURE),
        "here": node("LimelightPredictSaliency", (240, 0), (270, 0), predictor=("load", 0), image=("picture", 0)),
        "shown": node("PreviewImage", (540, 0), (210, 280), images=("here", 1)),
    },
    "LimelightSaliencyScore": {
        **predicted(None, None),
        **wish(None),
        "found": node("MaskPreview", (0, 0), (170, 230), "predicted", mask=("predict", 0)),
        "wanted": node("MaskPreview", (0, 300), (170, 230), "wanted", mask=("wish", 0)),
        "here": node(
            "LimelightSaliencyScore",
            (210, 0),
            (260, 0),
            saliency=("predict", 0),
            target=("wish", 0),
            seed=0,
            control_after_generate="fixed",
        ),
    },
    "LimelightAttentionReport": {
        **predicted((0, 0), (0, 45)),
        "drawing": node("LimelightHighlightCanvas", (0, 90), highlights=DOCUMENT, width=256, height=256),
        "here": node(
            "LimelightAttentionReport",
            (190, 0),
            (320, 400),
            names="red circle, blue bar",
            saliency=("predict", 0),
            regions=("drawing", 1),
            image=("picture", 0),
        ),
    },
    "LimelightSelectBySaliency": {
        **predicted(None, (0, 45), ("batch", 0)),
        **wish((0, 90)),
        "other": node("LoadImage", None, image=SCRIBBLES),
        "batch": node("ImageBatch", (0, 0), title="Batch Images", image1=("other", 0), image2=("picture", 0)),
        "here": node(
            "LimelightSelectBySaliency",
            (190, 0),
            (260, 0),
            image=("batch", 0),
            saliency=("predict", 0),
            target=("wish", 0),
        ),
        "all": node("PreviewImage", (480, 0), (210, 280), "all", images=("batch", 0)),
        "shown": node("PreviewImage", (720, 0), (210, 280), "the best", images=("here", 0)),
    },
}
