"""Saved workflows as the front end writes them -> prompts of the host's HTTP API."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
MUTED, BYPASSED = 2, 4
# loaders of models beside the checkpoint; what was trained on shapeworld, by a word in the name of the user's file
LOADERS = {"ControlNetLoader", "LimelightGLIGENLoader", "LimelightInpaintControlNetLoader", "LimelightAdapterLoader"}
TRAINED = {"gazefusion": "shapeworld_saliency.safetensors", "t2iadapter_canny": "shapeworld_local.safetensors"}
TRAINED["photo-background"] = "shapeworld_salient_object.safetensors"
HANDS_ON = {"LimelightControlRegion"}  # nodes whose output is such a model again
MERGES = {"LimelightRegions", "LimelightCoAdapter"}  # nodes that have nothing to do without one
MODEL_IS_OPTIONAL = {"LimelightSalientBackground", "LimelightEcomInpaint"}  # nodes that also run without such a model
# the loaders of a transformer in three files, and which output of shapeworld's one stands for each
TRANSFORMER_LOADERS = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}
TRANSFORMER_SAMPLING = {2: 25, 3: 4.0}  # by place among the KSampler's widgets: steps, cfg
NODES = Path(__file__).parents[1] / "shapeworld" / "nodes"
INPAINT = NODES / "shapeworld_inpaint.safetensors"  # it and those of TRAINED may not be there
CONTROLS = NODES / "controlnet"  # ControlNets and adapters that were trained on shapeworld
PRODUCT = Path(__file__).with_name("product.png")  # stands in for the user's picture: a circle, cut out by its alpha
EDGES = [0.05, 0.1]  # thresholds of Canny: PRODUCT is nearly as bright as its ground
# places of sizes in pixels among a node's widgets
PIXELS = {"EmptyLatentImage": (0, 1), "EmptyImage": (0, 1), "SolidMask": (1, 2), "LimelightHighlightCanvas": (1, 2)}
PIXELS |= {"MaskComposite": (0, 1), "LimelightHighlightFromScribbles": (4, 5)}
PIXELS["LimelightPlaceSubject"] = (0, 1)
PIXELS["LimelightSaliencyEditor"] = (1, 2)
PIXELS["LimelightMaskedAdapterApply"] = (4,)


def widgets(node_info: dict) -> list[tuple[str, Any]]:
    """Name and default of a node type's widgets, in the order of ``widgets_values``; "" for values that the front
    end adds: what becomes of a seed, the button that uploads a picture."""
    found: list[tuple[str, Any]] = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in node_info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGET_TYPES):
                continue
            choices = kind if isinstance(kind, list) else options.get("options", [None])
            found.append((name, options.get("default", next(iter(choices), None))))
            if options.get("control_after_generate") or options.get("image_upload"):
                found.append(("", None))
    return found


def to_prompt(workflow: dict, object_info: Mapping[str, Any]) -> dict[str, dict]:
    """-> API prompt by node id. Raises ValueError for node types that the host does not know.

    A workflow that was saved before a node got its last widgets has no values for them: they take their defaults.
    """
    nodes = [n for n in workflow["nodes"] if n.get("mode", 0) not in (MUTED, BYPASSED) and n["type"] != "MarkdownNote"]
    unknown = sorted({node["type"] for node in nodes} - object_info.keys())
    if unknown:
        raise ValueError(f"the host does not know the node types {unknown}")
    sources = {link[0]: source_of(link, workflow) for link in workflow["links"]}
    prompt = {}
    for node in nodes:
        known = widgets(object_info[node["type"]])
        values = node.get("widgets_values") or []
        if len(values) > len(known):
            names = [name for name, _ in known]
            raise ValueError(f"node {node['id']} ({node['type']}): widgets {names} but values {values}")
        values = [*values, *(default for _, default in known[len(values) :])]
        inputs: dict[str, Any] = {name: value for (name, _), value in zip(known, values, strict=True) if name}
        for slot in node.get("inputs", []):
            if sources.get(slot.get("link")) is not None:
                inputs[slot["name"]] = sources[slot["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def source_of(link: list, workflow: dict) -> list | None:
    """Where a link [id, node, slot, ...] comes from, as [node, slot]. A bypassed node hands on, as in the front end,
    the input of the output's type, by its place among those of that type. None: nothing comes."""
    node = next(node for node in workflow["nodes"] if node["id"] == link[1])
    if node.get("mode", 0) != BYPASSED:
        return [str(link[1]), link[2]]
    kind = node["outputs"][link[2]]["type"]
    place = sum(output["type"] == kind for output in node["outputs"][: link[2]])
    inputs = [slot for slot in node.get("inputs", []) if slot["type"] == kind and slot.get("link") is not None]
    if not inputs:
        return None
    wanted = inputs[min(place, len(inputs) - 1)]["link"]
    return source_of(next(link for link in workflow["links"] if link[0] == wanted), workflow)


def load_workflow(path: Path) -> dict:
    """A workflow as the front end saved it."""
    return json.loads(path.read_text(encoding="utf-8"))


def on_shapeworld(workflow: dict, side: int = 128, stand_in: str = "") -> dict:
    """The workflow with shapeworld's loader for the checkpoint loader, its longer side ``side`` pixels, what was
    trained on it for other models, and PRODUCT for pictures (of the host's input folder, see `copy_product`).

    stand_in: the file, of shapeworld's sizes, that the loaders of other models take. Without one, the nodes that use
    those models are bypassed, or go without.
    """
    workflow = with_transformer(copy.deepcopy(workflow))
    nodes = workflow["nodes"]
    sized = {"EmptyLatentImage"} & {node["type"] for node in nodes} or PIXELS.keys()
    sides = [node["widgets_values"][i] for node in nodes if node["type"] in sized for i in PIXELS[node["type"]]]
    for node in nodes:
        values = node.get("widgets_values")
        if node["type"] == "CheckpointLoaderSimple":
            inpaints = "inpaint" in values[0] and INPAINT.is_file()
            loader = "ShapeworldInpaintLoader" if inpaints else "ShapeworldLoader"
            node.update(type=loader, widgets_values=[], properties={})
        elif node["type"] in LOADERS:
            values[0] = trained(values[0]) or stand_in or values[0]
            node["properties"].pop("models", None)  # where the user's file is to be had
        elif node["type"] == "LoadImage":
            node["widgets_values"] = [PRODUCT.name, "image"]
        elif node["type"] == "Canny":
            node["widgets_values"] = EDGES
        for place in PIXELS.get(node["type"], ()):
            values[place] = round(values[place] * side / max(sides))
    if not stand_in:
        kinds, links = {node["id"]: node["type"] for node in nodes}, workflow["links"]
        others = [node for node in nodes if node["type"] in LOADERS]
        loaders = {node["id"] for node in others if node["widgets_values"][0] not in TRAINED.values()}
        loaders |= {link[3] for link in links if link[1] in loaders and kinds[link[3]] in HANDS_ON}
        users = {link[3] for link in links if link[1] in loaders}
        users |= {link[3] for link in links if link[1] in users and kinds[link[3]] in MERGES}
        without = {node["id"] for node in nodes if node["type"] in MODEL_IS_OPTIONAL}
        unused = {link[1] for link in links if link[1] in loaders and link[3] in without}
        for node in nodes:
            node["mode"] = BYPASSED if node["id"] in users - without | unused else node.get("mode", 0)
    return workflow


def with_transformer(workflow: dict) -> dict:
    """The workflow itself, with shapeworld's loader of its transformer for those of a model in three files, and a
    distilled model's few steps without CFG as many as shapeworld wants."""
    nodes, loaders = workflow["nodes"], {}
    for node in nodes:
        if node["type"] in TRANSFORMER_LOADERS:
            loaders[node["id"]] = TRANSFORMER_LOADERS[node["type"]]
    if not loaders:
        return workflow
    model = next(node for node in nodes if node["type"] == "UNETLoader")
    kinds = ("MODEL", "CLIP", "VAE")
    outputs = [{"name": kind, "type": kind, "links": []} for kind in kinds]
    for link in workflow["links"]:
        if link[1] in loaders:
            link[1:3] = model["id"], loaders[link[1]]
            outputs[link[2]]["links"].append(link[0])
    model.update(type="ShapeworldTransformerLoader", widgets_values=[], properties={}, outputs=outputs)
    for node in nodes:
        if node["type"] == "EmptySD3LatentImage":  # of 16 channels
            node["type"] = "EmptyLatentImage"
        elif node["type"] == "KSampler":
            for place, value in TRANSFORMER_SAMPLING.items():
                node["widgets_values"][place] = value
    workflow["nodes"] = [node for node in nodes if node is model or node["id"] not in loaders]
    return workflow


def trained(name: str) -> str:
    """The file that was trained on shapeworld in place of a user's, or ""."""
    found = next((file for word, file in TRAINED.items() if word in name), "")
    return found if (CONTROLS / found).is_file() else ""


def of_type(prompt: dict[str, dict], class_type: str) -> list[dict]:
    """The nodes of one type, in id order."""
    return [prompt[key] for key in sorted(prompt, key=int) if prompt[key]["class_type"] == class_type]


def copy_product(base: Path) -> None:
    """Put PRODUCT into the input folder of a host's base directory."""
    (base / "input").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PRODUCT, base / "input" / PRODUCT.name)


def shapeworld_copies(folder: Path, base: Path) -> None:
    """Put a copy of every workflow of ``folder``, ready for shapeworld, among the saved workflows of a host's base
    directory, so that the front end lists it and *Run* works without a checkpoint."""
    saved = base / "user" / "default" / "workflows"
    saved.mkdir(parents=True, exist_ok=True)
    copy_product(base)
    for path in sorted(folder.glob("*.json")):
        text = json.dumps(on_shapeworld(load_workflow(path)))
        (saved / f"{path.stem}_shapeworld.json").write_text(text, encoding="utf-8")
