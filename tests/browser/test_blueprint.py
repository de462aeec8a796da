"""The blueprints in the host's front end: it lists them, and they run as their nodes would."""

from __future__ import annotations

import json

import pytest
from browser_pages import SHOW_ALL, open_graph, prompt_of, screenshot
from stand_ins import STAND_IN

from limelight.bench.workflow import PRODUCT, widgets
from limelight.tools.in_process import ROOT

BLUEPRINTS = ROOT / "subgraphs"
TEXT = "a red circle and a blue bar on a gray background"
BOX = {"phrase": "blue bar", "x": 0.5, "y": 0.6, "width": 0.4, "height": 0.3}
SETTINGS = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SIZE = {"width": 128, "height": 128}
PICTURE = {"image": PRODUCT.name}
PROMPTS = {"text": TEXT, "negative_text": "blurry"}

# A blueprint is "it". Each case: the types of the nodes around it; values of widgets; links by the names of slots; what
# arrives at which of its nodes; an input of which another value makes another picture.
SAMPLED = {"load": "ShapeworldLoader", "sample": "KSampler", "image": "VAEDecode", "save": "PreviewImage"}
PAINTED = [
    ("load", "CLIP", "it", "clip"),
    ("it", "positive", "sample", "positive"),
    ("it", "negative", "sample", "negative"),
    ("sample", "LATENT", "image", "samples"),
    ("load", "VAE", "image", "vae"),
    ("image", "IMAGE", "save", "images"),
]
GUIDED = [("load", "MODEL", "it", "model"), ("it", "model", "sample", "model")]
EMPTY = ("size", "LATENT", "sample", "latent_image")
SHOWN = [("picture", "IMAGE", "it", "image"), ("picture", "MASK", "hole", "mask")]
HELD = {"picture": "LoadImage", "hole": "InvertMask"}

CASES = {
    "Highlight a scene": (
        SAMPLED | {"box": "LimelightHighlightFromBox", "size": "EmptyLatentImage"},
        {"it": PROMPTS | {"strength": 1.5, "end_percent": 0.8}, "box": BOX, "size": SIZE, "sample": SETTINGS},
        [*PAINTED, *GUIDED, EMPTY, ("box", "highlights", "it", "highlights")],
        {
            "LimelightHighlightGuidance": {"strength": 1.5, "end_percent": 0.8},
            "LimelightHighlightPrompt": {"text": TEXT},
        },
        ("LimelightHighlightGuidance", "strength", 0.0),
    ),
    "Report where people look": (
        HELD | {"save": "PreviewImage"},
        {"it": {"names": "product"}, "picture": PICTURE},
        [*SHOWN, ("hole", "MASK", "it", "regions"), ("it", "heat", "save", "images")],
        {"LimelightAttentionReport": {"names": "product"}},
        ("LimelightSaliencyPredictorLoader", "predictor", "image signature (needs no file)"),
    ),
    "New background for a product": (
        SAMPLED | HELD,
        {"it": PROMPTS | SIZE | {"keep_object": True, "strength": 0.8}, "picture": PICTURE, "sample": SETTINGS},
        [
            *PAINTED,
            *GUIDED,
            *SHOWN,
            ("hole", "MASK", "it", "mask"),
            ("load", "VAE", "it", "vae"),
            ("it", "latent", "sample", "latent_image"),
        ],
        {"LimelightPlaceSubject": SIZE, "LimelightExpansionGuard": {"strength": 0.8}},
        ("LimelightExpansionGuard", "strength", 0.0),
    ),
    "Control in a region": (
        SAMPLED | HELD | {"net": "ControlNetLoader", "size": "EmptyLatentImage"},
        {"it": PROMPTS | {"strength": 0.9, "feather": 8.0}, "net": {"control_net_name": STAND_IN}}
        | {"picture": PICTURE, "size": SIZE, "sample": SETTINGS},
        [
            *PAINTED,
            *SHOWN,
            ("load", "MODEL", "sample", "model"),
            EMPTY,
            ("net", "CONTROL_NET", "it", "control_net"),
            ("hole", "MASK", "it", "mask"),
        ],
        {"LimelightMaskedAdapterApply": {"strength": 0.9, "feather": 8.0}},
        ("LimelightMaskedAdapterApply", "strength", 0.0),
    ),
}

STORES = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s"
# The older front end keeps blueprints in a store of their own, the newer one among the nodes.
LISTED = f"""[...({STORES}.get("subgraph").subgraphBlueprints ?? []), ...{STORES}.get("nodeDef").nodeDefs]"""
FOUND = f"name => {LISTED}.find(one => one.display_name === name)"
# Adds nodes to the open graph, whose only node is called "it", and links them by the names of their slots.
EXTEND = """([nodes, values, links]) => {
  const made = { it: app.graph.nodes[0] }
  for (const [key, type] of Object.entries(nodes)) app.graph.add(made[key] = LiteGraph.createNode(type))
  for (const [key, wanted] of Object.entries(values))
    for (const [name, value] of Object.entries(wanted)) made[key].widgets.find(one => one.name === name).value = value
  for (const [from, output, to, input] of links)
    made[from].connect(made[from].findOutputSlot(output), made[to], made[to].findInputSlot(input))
  app.graph.arrange()
}"""


@pytest.mark.parametrize("name", CASES)
def test_blueprint_runs_as_its_nodes_would(front_end_page, name):
    page, client = front_end_page, front_end_page.server.client
    nodes, values, links, arrives, (kind, widget, other) = CASES[name]
    page.wait_for_function(FOUND, arg=name)
    assert page.evaluate(f"name => {STORES}.get('subgraph').getBlueprint(({FOUND})(name).name).nodes.length", name) == 1

    blueprint = json.loads((BLUEPRINTS / f"{name}.json").read_text(encoding="utf-8"))
    info = client.object_info()
    for node in open_graph(page, blueprint).values():
        defaults = {key: default for key, default in widgets(info[node["class_type"]]) if default is not None}
        assert {key: node["inputs"][key] for key in defaults} == defaults
    page.evaluate(EXTEND, [nodes, values, links])
    page.evaluate(SHOW_ALL)
    screenshot(page, f"blueprint-{name.split()[0]}-{page.kind}")
    prompt = prompt_of(page)
    by_type = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert len(prompt) == len(nodes) + len(blueprint["definitions"]["subgraphs"][0]["nodes"])
    for node, inputs in arrives.items():
        assert {key: by_type[node][key] for key in inputs} == inputs
    if "text" in values["it"]:
        texts = [node["inputs"]["text"] for node in prompt.values() if "text" in node["inputs"]]
        assert sorted(texts) == sorted(PROMPTS.values())

    prompt = {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in prompt.items()}
    save = next(key for key, node in prompt.items() if node["class_type"] == "PreviewImage")

    def picture() -> bytes:
        return client.file(client.run_workflow(prompt)["outputs"][save]["images"][0])

    first = picture()
    assert by_type[kind][widget] != other
    by_type[kind][widget] = other
    assert picture() != first


def test_every_blueprint_has_a_case():
    assert CASES.keys() == {path.stem for path in BLUEPRINTS.glob("*.json")}
