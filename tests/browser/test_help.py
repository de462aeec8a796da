"""Help panel, language and blueprints of the pack in the host's front end."""

from __future__ import annotations

import json

import pytest
from browser_pages import canvas_graph, open_graph, prompt_of, screenshot

from limelight.tools.browser import open_front_end
from limelight.tools.in_process import ROOT

BLUEPRINT = ROOT / "subgraphs" / "Highlight a scene.json"
TEXT = "a red circle and a blue bar on a gray background"
BOX = {"phrase": "blue bar", "x": 0.5, "y": 0.6, "width": 0.4, "height": 0.3}
SETTINGS = {"seed": 3, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SIZE = {"width": 128, "height": 128, "batch_size": 1}

STORE = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('subgraph')"
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


def test_help_page_opens_with_its_picture(front_end_page):
    page = front_end_page
    open_graph(page, canvas_graph())
    page.evaluate("() => app.canvas.selectNodes([app.graph.nodes[0]])")
    page.get_by_test_id("info-button").dispatch_event("click")  # the toolbox follows the node, always a little late
    picture = page.locator(".node-help-content img")
    picture.wait_for()
    page.wait_for_function("() => document.querySelector('.node-help-content img').naturalWidth > 200")
    assert page.locator(".node-help-content h1").inner_text() == "Highlight Canvas"
    assert picture.get_attribute("src") == "/extensions/limelight/docs/LimelightHighlightCanvas.png"
    screenshot(page, f"help-{page.kind}")


def test_nodes_speak_chinese(front_end_page, chromium):
    page = open_front_end(chromium, front_end_page.server, vue=front_end_page.vue, language="zh")
    try:
        open_graph(page, canvas_graph())
        page.wait_for_function("() => document.documentElement.lang === 'zh' || app.graph.nodes.length")
        node = page.evaluate(
            """() => {
              const node = LiteGraph.createNode("LimelightHighlightGuidance")
              const named = slots => slots.map(slot => slot.label ?? slot.localized_name ?? slot.name)
              return { title: node.title, inputs: named(node.inputs), outputs: named(node.outputs) }
            }"""
        )
        screenshot(page, f"chinese-{front_end_page.kind}")
    finally:
        page.close()
        front_end_page.server.client.request("/settings", {"Comfy.Locale": "en"})
    assert node["title"] == "高亮引导"
    assert {"模型", "强度", "开始百分比"} <= set(node["inputs"])
    assert node["outputs"] == ["模型"]


def test_blueprint_runs_as_its_nodes_would(front_end_page):
    page, client = front_end_page, front_end_page.server.client
    name = BLUEPRINT.stem
    page.wait_for_function(f"name => {STORE}.subgraphBlueprints.some(one => one.display_name === name)", arg=name)
    assert page.evaluate(f"name => {STORE}.getBlueprint('SubgraphBlueprint.' + name).nodes.length", name) == 1

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


@pytest.mark.parametrize("front_end_page", ["classic-1.32"], indirect=True)
def test_settings_of_the_language_are_back(front_end_page):
    assert front_end_page.server.client.json("/settings")["Comfy.Locale"] == "en"
