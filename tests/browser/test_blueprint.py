"""The blueprints in the host's front end: it lists them, and they run as their nodes would."""

from __future__ import annotations

import json

from browser_pages import SHOW_ALL, open_graph, prompt_of, screenshot

from limelight.tools.in_process import ROOT

BLUEPRINT = ROOT / "subgraphs" / "Highlight a scene.json"
TEXT = "a red circle and a blue bar on a gray background"
BOX = {"phrase": "blue bar", "x": 0.5, "y": 0.6, "width": 0.4, "height": 0.3}
SETTINGS = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SIZE = {"width": 128, "height": 128, "batch_size": 1}

STORES = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s"
# The older front end keeps blueprints in a store of their own, the newer one among the nodes.
LISTED = f"""[...({STORES}.get("subgraph").subgraphBlueprints ?? []), ...{STORES}.get("nodeDef").nodeDefs]"""
FOUND = f"name => {LISTED}.find(one => one.display_name === name)"
# Adds nodes to the open graph, whose only node is called "scene", and links them by the names of their slots.
EXTEND = """([nodes, values, links]) => {
  const made = { scene: app.graph.nodes[0] }
  for (const [key, type] of Object.entries(nodes)) app.graph.add(made[key] = LiteGraph.createNode(type))
  for (const [key, wanted] of Object.entries(values))
    for (const [name, value] of Object.entries(wanted)) made[key].widgets.find(one => one.name === name).value = value
  for (const [from, output, to, input] of links)
    made[from].connect(made[from].findOutputSlot(output), made[to], made[to].findInputSlot(input))
  app.graph.arrange()
}"""


def test_blueprint_runs_as_its_nodes_would(front_end_page):
    page, client = front_end_page, front_end_page.server.client
    name = BLUEPRINT.stem
    page.wait_for_function(FOUND, arg=name)
    assert page.evaluate(f"name => {STORES}.get('subgraph').getBlueprint(({FOUND})(name).name).nodes.length", name) == 1

    open_graph(page, json.loads(BLUEPRINT.read_text(encoding="utf-8")))
    nodes = {"load": "ShapeworldLoader", "box": "LimelightHighlightFromBox", "size": "EmptyLatentImage"}
    nodes |= {"sample": "KSampler", "image": "VAEDecode", "save": "PreviewImage"}
    scene = {"text": TEXT, "negative_text": "blurry", "strength": 1.5, "end_percent": 0.8}
    values = {"scene": scene, "box": BOX, "size": SIZE, "sample": SETTINGS}
    links = [
        ("load", "MODEL", "scene", "model"),
        ("load", "CLIP", "scene", "clip"),
        ("box", "highlights", "scene", "highlights"),
        ("scene", "model", "sample", "model"),
        ("scene", "positive", "sample", "positive"),
        ("scene", "negative", "sample", "negative"),
        ("size", "LATENT", "sample", "latent_image"),
        ("sample", "LATENT", "image", "samples"),
        ("load", "VAE", "image", "vae"),
        ("image", "IMAGE", "save", "images"),
    ]
    page.evaluate(EXTEND, [nodes, values, links])
    page.evaluate(SHOW_ALL)
    screenshot(page, f"blueprint-{page.kind}")
    prompt = prompt_of(page)
    by_type = {node["class_type"]: (key, node["inputs"]) for key, node in prompt.items()}
    assert len(by_type) == len(prompt) == len(nodes) + 3
    bound, bound_inputs = by_type["LimelightHighlightPrompt"]
    assert bound_inputs["text"] == TEXT
    negative, negative_inputs = by_type["CLIPTextEncode"]
    assert negative_inputs["text"] == "blurry"
    guided, guided_inputs = by_type["LimelightHighlightGuidance"]
    assert (guided_inputs["strength"], guided_inputs["end_percent"]) == (1.5, 0.8)
    sampler = by_type["KSampler"][1]
    assert [sampler[name] for name in ("model", "positive", "negative")] == [[guided, 0], [bound, 0], [negative, 0]]

    prompt = {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in prompt.items()}
    (picture,) = client.images(client.run_workflow(prompt))
    sampler["model"] = [by_type["ShapeworldLoader"][0], 0]
    (plain,) = client.images(client.run_workflow(prompt))
    assert picture != plain
