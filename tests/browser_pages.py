"""What the browser tests share: graphs in the host's front end, and a hand that draws in a canvas."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from limelight.tools.in_process import ROOT

SCREENSHOTS = ROOT / ".cache" / "screenshots"

# Puts every node of the open graph into view.
SHOW_ALL = """() => {
  const boxes = app.canvas.graph.nodes.map(node => node.boundingRect)
  const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]))
  const right = Math.max(...boxes.map(box => box[0] + box[2])), bottom = Math.max(...boxes.map(box => box[1] + box[3]))
  app.canvas.ds.fitToBounds([left, top, right - left, bottom - top], { zoom: 0.9 })
  app.canvas.setDirty(true, true)
}"""
# Puts a node and its canvas, which Nodes 2.0 may draw beyond it, into view; -> whether all of that was there before.
SHOW_NODE = """id => {
  const node = app.canvas.graph.getNodeById(id), { ds } = app.canvas
  const { element } = node.widgets.find(widget => ["highlights", "blobs"].includes(widget.name))
  element.dataset.node = id
  const drawn = element.getBoundingClientRect(), page = app.canvas.canvas.getBoundingClientRect()
  const [left, top, width, height] = node.boundingRect
  const bottom = Math.max(top + height, (drawn.bottom - page.top) / ds.scale - ds.offset[1])
  ds.fitToBounds([left, top, width, bottom - top], { zoom: 0.9 })
  app.canvas.setDirty(true, true)
  return drawn.top >= page.top && drawn.bottom <= page.bottom
}"""
# -> where the canvases are on the page.
BOXES = """() => [...document.querySelectorAll(".limelight-canvas")].map(element => {
  const { x, y, width, height } = element.getBoundingClientRect()
  return [x, y, width, height]
})"""
# Puts the milliseconds of each task of the page that took 50 or more into `long`.
WATCH_LONG_TASKS = """() => {
  long = []
  window.longTasks?.disconnect()
  window.longTasks = new PerformanceObserver(list => long.push(...list.getEntries().map(entry => entry.duration)))
  window.longTasks.observe({ type: "longtask" })
}"""
# Draws with events that have a pointer's type and pressure, as a tablet's have; the browser sends no mouse events.
PEN = """([points, type]) => {
  const target = document.querySelector(".ll-live"), rect = target.getBoundingClientRect()
  points.forEach(([x, y, pressure], i) => {
    const options = { pointerId: 7, pointerType: type, pressure, bubbles: true, clientX: rect.left + x * rect.width }
    Object.assign(options, { clientY: rect.top + y * rect.height, button: i ? -1 : 0, buttons: 1, isPrimary: true })
    target.dispatchEvent(new PointerEvent(i ? "pointermove" : "pointerdown", options))
  })
  const last = { pointerId: 7, pointerType: type, bubbles: true, button: 0 }
  target.dispatchEvent(new PointerEvent("pointerup", last))
}"""


def front_end_of(request) -> tuple[Any, bool]:
    """A fixture's parameter, such as "vue-1.58" -> the server of that front end, and whether to use Nodes 2.0."""
    renderer, version = request.param.split("-")
    return request.getfixturevalue("server" if version == "1.32" else "newer_server"), renderer == "vue"


def open_graph(page, graph: dict) -> dict:
    """Open a saved graph as the front end's own "Open" does; -> the API prompt that it would queue."""
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(graph["nodes"]))
    page.evaluate(SHOW_ALL)
    settle(page, rest=3)
    return prompt_of(page)


def settle(page, rest: int = 5) -> None:
    """Until all canvases have stayed where they are for so many tenths of a second: a busy machine moves Nodes 2.0
    late."""
    last, still = None, 0
    for _ in range(200):
        page.wait_for_timeout(100)
        boxes = page.evaluate(BOXES)
        still = still + 1 if boxes == last else 0
        if still == rest:
            return
        last = boxes


def prompt_of(page) -> dict:
    """-> the API prompt that the open graph would queue."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def screenshot(page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def drawing(prompt: dict, node: str = "1") -> dict:
    """-> the highlights document that a canvas node puts into the prompt."""
    return json.loads(prompt[node]["inputs"]["highlights"])


class Hand:
    """Draws in one canvas of a page, with the mouse. Coordinates are fractions of the canvas.

    node: the id of its node, which is then brought into view, large enough for Nodes 2.0 to take the mouse (the older
    front end does not below 57 %). None: the page's only canvas.
    """

    def __init__(self, page, node: int | None = None):
        self.page = page
        mark = "" if node is None else f'[data-node="{node}"]'
        self.root = page.locator(f".limelight-canvas{mark}").first
        for _ in range(0 if node is None else 5):
            page.evaluate(SHOW_NODE, int(node))
            settle(page)
            if page.evaluate(SHOW_NODE, int(node)):
                break
        self.paper = self.root.locator(".ll-live")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """-> where on the page the point lies."""
        box = self.paper.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def draw(self, *points: Sequence[float]) -> None:
        """Presses at the first point, moves through the others, lets go."""
        self.page.mouse.move(*self.place(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.place(*point), steps=4)
        self.page.mouse.up()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.place(x, y))

    def key(self, *keys: str) -> None:
        """Types keys with the focus on the drawing area."""
        self.paper.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def name(self, phrase: str, row: int = 0) -> None:
        """Writes a highlight's phrase into the list."""
        field = self.root.locator(".ll-phrase").nth(row)
        field.fill(phrase)
        field.press("Enter")


def canvas_graph(*canvases: dict[str, Any], extra: Sequence[dict] = (), links: Sequence[list] = ()) -> dict:
    """A saved graph of canvas nodes, numbered from 1, side by side; each may have "text", "width", "height"."""
    nodes = []
    for i, values in enumerate(canvases or ({},)):
        empty = '{"version":1,"highlights":[]}'
        node = {"id": i + 1, "type": "LimelightHighlightCanvas", "pos": [620 * i, 0], "size": [580, 640], "order": i}
        node |= {"flags": {}, "mode": 0, "properties": {}}
        node["inputs"] = [{"name": "background", "type": "IMAGE", "link": None}]
        node["inputs"] += [{"name": "prompt", "type": "STRING", "link": None}]
        outputs = [
            ("highlights", "HIGHLIGHTS"),
            ("masks", "MASK"),
            ("preview", "IMAGE"),
            ("width", "INT"),
            ("height", "INT"),
        ]
        node["outputs"] = [{"name": name, "type": kind, "links": []} for name, kind in outputs]
        node["widgets_values"] = [values.get("text", empty), values.get("width", 512), values.get("height", 512)]
        nodes.append(node)
    nodes += extra
    last = max(node["id"] for node in nodes)
    graph = {"last_node_id": last, "last_link_id": len(links), "nodes": nodes, "links": list(links), "groups": []}
    return graph | {"id": str(uuid.uuid4()), "config": {}, "extra": {}, "version": 0.4}


BARE = """<!doctype html><meta charset="utf-8"><title>canvas</title>
<body style="margin:8px;background:#222"><div id="place" style="width:WIDEpx;height:HIGHpx"></div>
<script type="module">
import { createHighlightCanvas } from "/limelight/highlight_canvas.js";
import { createSaliencyCanvas } from "/limelight/saliency_canvas.js";
Object.assign(window, { size: [512, 512], prompt: "", edits: [] });
window.canvas = createKINDCanvas({ size: () => size, prompt: () => prompt, onEdit: (text) => edits.push(text) });
document.getElementById("place").append(canvas.element);
</script>"""


def open_bare(browser, web_url: str, kind: str = "highlight", width: int = 640, height: int = 560, **options):
    """A page with one canvas ("highlight" or "saliency") of that many CSS pixels and no host. -> page

    In the page: `canvas` (what createHighlightCanvas gave), `size` (of the image, may be changed), `prompt`, `edits`.
    `page.problems` collects errors. options: of the browser context.
    """
    page = browser.new_context(**{"viewport": {"width": 700, "height": 600}, **options}).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    body = BARE.replace("KIND", kind.capitalize()).replace("WIDE", str(width)).replace("HIGH", str(height))
    page.route("**/bare.html", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.route("**/favicon.ico", lambda route: route.fulfill(body=""))
    page.goto(f"{web_url}/bare.html")
    page.wait_for_function("window.canvas && document.querySelector('.ll-live').width > 1")
    return page


def stroke(*points, width=0.1):
    return {"type": "stroke", "points": [list(point) for point in points], "width": width}


def box(*sides):
    return {"type": "box", "box": list(sides)}


def highlight(phrase: str, *objects: list[dict], **more) -> dict:
    """A highlight in its plain form; `objects`: the shapes of each of its instances."""
    return {"phrase": phrase, "instances": [{"shapes": shapes} for shapes in objects], **more}


def load_bare(page, *highlights: dict) -> Hand:
    """Puts a drawing into the canvas of a bare page."""
    page.evaluate("text => canvas.editor.load(text)", json.dumps({"version": 1, "highlights": highlights}))
    return Hand(page)


def bare_value(page) -> list[dict]:
    """-> the highlights of a bare page's drawing."""
    return json.loads(page.evaluate("canvas.editor.text"))["highlights"]


def bare_objects(page, index: int = 0) -> list[list[dict]]:
    """-> the shapes of each instance of one highlight of a bare page's drawing."""
    return [instance["shapes"] for instance in bare_value(page)[index]["instances"]]


LINES = [[(0.1, 0.1 + 0.2 * i), (0.9, 0.1 + 0.2 * i)] for i in range(4)]
NODE = "app.canvas.graph.nodes.find(node => node.type === 'LimelightHighlightCanvas')"
TEXT = json.dumps(
    {
        "version": 1,
        "highlights": [
            {"phrase": "red circle", "color": "#e6194b"}
            | {"instances": [{"shapes": [{"type": "stroke", "points": [[0.2, 0.3], [0.7, 0.3]], "width": 0.08}]}]},
            {"phrase": "blue bar", "color": "#4363d8"}
            | {"instances": [{"shapes": [{"type": "box", "box": [0.1, 0.6, 0.5, 0.9]}]}]},
        ],
    },
    separators=(",", ":"),
)


def shapes(document: dict) -> list[str]:
    return [s["type"] for h in document["highlights"] for i in h["instances"] for s in i["shapes"]]


def wait_for_shapes(page, count: int) -> None:
    """Until the graph's canvas holds so many shapes: undo and loading take a while."""
    page.wait_for_function(
        f"count => {{ const node = {NODE}; const text = node?.widgets?.find(w => w.name === 'highlights')?.value;"
        'return text !== undefined && (text.match(/"type"/g) ?? []).length === count }',
        arg=count,
    )
    page.locator(".limelight-canvas .ll-live").first.wait_for()
    page.wait_for_timeout(100)
