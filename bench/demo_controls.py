"""The demo's further families, each by its example workflow with the control that was trained on shapeworld."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..guidance.expansion.measure import expansion
from ..guidance.local import edges, score
from ..shapeworld.reader import read
from ..shapeworld.scenes import Scene, Thing, render
from ..tools.client import HostClient
from ..tools.in_process import ROOT
from ..tools.thumbnails import at_zero
from .expansion import BAND, of_colour
from .saliency import share
from .sampling import SCALE, SCHEDULER, SIDE, STEPS
from .workflow import PRODUCT, load_workflow, of_type, on_shapeworld, to_prompt

SPOT = {"x": 0.72, "y": 0.3, "sx": 0.12, "sy": 0.12, "angle": 0, "amplitude": 1.0, "mode": "attract"}
BOX = 0.08, 0.1, 0.56, 0.62  # left, top, right, bottom
DRAWN = Scene((Thing("bar", "yellow", 0.32, 0.36, 0.36, 0.14, 0.7), Thing("circle", "blue", 0.74, 0.72, 0.16)), "gray")
PICTURE = "limelight_demo.png"  # of the local control, in the host's input folder

Graph = dict[str, dict]


@dataclass(frozen=True)
class Family:
    """One workflow and how its effect is measured. adds: what the picture with it has. steers: the node whose place is
    drawn in.

    values: of widgets, by node type. measure(picture, place) -> a number, printed as `what`; picture uint8
    (SIDE, SIDE, 3); place: what is drawn around, bool (SIDE, SIDE).
    """

    title: str
    adds: str
    workflow: str
    steers: str
    caption: str
    seed: int
    what: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    values: dict[str, dict[str, str | float]]


def attention_share(picture: np.ndarray, place: np.ndarray) -> float:
    """Of the attention, by the predictor without weights, within the outline."""
    import torch

    from ..models.classic_saliency import ClassicSaliency

    seen = ClassicSaliency().predict(torch.from_numpy(picture)[None].float() / 255)[0].numpy()
    return share(seen, place)


def growth(picture: np.ndarray, place: np.ndarray) -> float:
    """Of the subject, of PRODUCT's colour, beyond its mask, as a share of its area."""
    return expansion(place, of_colour(read(picture), "red", place.shape), BAND)[0]["attached"]


def edge_f1(picture: np.ndarray, place: np.ndarray) -> float:
    """Of the edges within the outline, against those of DRAWN."""
    wanted, made = (edges.canny(image.astype(np.float32) / 255) for image in (render(DRAWN, SIDE)[0], picture))
    return score.match(made, wanted, place)["f1"]


LOOK_HERE = {"LimelightSaliencyEditor": {"blobs": json.dumps({"version": 1, "blobs": [SPOT]})}}
SHAPE = {"type": "box", "box": list(BOX)}
FAMILIES = (
    Family(
        "saliency",
        "the saliency ControlNet",
        "saliency_controlnet",
        "LimelightSaliencyApply",
        "a green circle and a blue bar on a gray background",
        5,
        "attention share",
        attention_share,
        LOOK_HERE,
    ),
    Family(
        "saliency",
        "saliency guidance",
        "saliency_guidance",
        "LimelightSaliencyGuidance",
        "a red bar and a yellow square on a black background",
        5,
        "attention share",
        attention_share,
        LOOK_HERE,
    ),
    Family(
        "salient object",
        "the inpainting ControlNet",
        "product_background_sd2",
        "LimelightSalientBackground",
        "a red circle and a blue bar on a black background",
        11,
        "growth",
        growth,
        {"LimelightPlaceSubject": {"size": 32.0}},
    ),
    Family(
        "local control",
        "the local adapter",
        "local_adapter_region",
        "LimelightMaskedAdapterApply",
        "a yellow bar and a blue circle on a gray background",
        12,
        "edge F1",
        edge_f1,
        {
            "LoadImage": {"image": PICTURE},
            "LimelightHighlightCanvas": {
                "highlights": json.dumps(
                    {"version": 1, "highlights": [{"phrase": "here", "instances": [{"shapes": [SHAPE]}]}]}
                )
            },
        },
    ),
)


def prepare(client: HostClient) -> None:
    """Put the pictures that the workflows load into the host's input folder."""
    stream = io.BytesIO()
    Image.fromarray(render(DRAWN, SIDE)[0]).save(stream, "PNG")
    client.upload(PICTURE, stream.getvalue())
    client.upload(PRODUCT.name, PRODUCT.read_bytes())


def graph_of(family: Family, info: dict) -> Graph:
    """The family's workflow on shapeworld, with its caption, seed and values."""
    graph = to_prompt(on_shapeworld(load_workflow(ROOT / "workflows" / f"{family.workflow}.json"), SIDE), info)
    prompt = next(node for node in of_type(graph, "CLIPTextEncode") if node["inputs"]["text"])
    prompt["inputs"]["text"] = family.caption
    for kind, values in family.values.items():
        for node in of_type(graph, kind):
            node["inputs"] |= values
    common = {"seed": family.seed, "steps": STEPS, "cfg": SCALE, "sampler_name": "euler", "scheduler": SCHEDULER}
    for node in of_type(graph, "KSampler"):
        node["inputs"] |= common
    return graph


def place_of(family: Family, graph: Graph) -> Graph:
    """A node that shows the mask that the steering node gets, to be added to the graph."""
    inputs = of_type(graph, family.steers)[0]["inputs"]
    mask = next(inputs[name] for name in ("mask", "saliency", "target") if name in inputs)
    return {"place": {"class_type": "MaskPreview", "inputs": {"mask": mask}}}


def run(client: HostClient, family: Family, info: dict) -> tuple[list[np.ndarray], np.ndarray, dict]:
    """-> the picture without and the one with control, uint8 (SIDE, SIDE, 3); the place, bool; a row of the table."""
    graph = graph_of(family, info)
    saved = min((key for key, node in graph.items() if node["class_type"] == "SaveImage"), key=int)
    found = [client.run_workflow(each)["outputs"] for each in (at_zero(graph) | place_of(family, graph), graph)]
    made = [_pixels(client, outputs[saved]) for outputs in found]
    place = _pixels(client, found[0]["place"])[..., 0] >= 128
    values = [f"{family.what} {family.measure(picture, place):.2f}" for picture in made]
    row = {"prompt": family.title, "phrase": family.caption, "without": values[0], "with": values[1]}
    return made, place, row


def _pixels(client: HostClient, output: dict) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(client.file(output["images"][0]))).convert("RGB"))
