"""A picture for each help page: ``python -m limelight.tools.help_pictures [node id ...]``.

The graphs of `help_graphs` and `help_graphs_saliency` are opened in the host's front end and run on shapeworld; what a
person would see is written to web/docs/<node id>.png. Needs Chromium.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from . import (
    help_graphs,
    help_graphs_attention,
    help_graphs_background,
    help_graphs_editor,
    help_graphs_guard,
    help_graphs_local,
    help_graphs_product,
    help_graphs_saliency,
    help_graphs_structure,
    help_graphs_tokens,
)
from .browser import FLAGS, find_browser, open_front_end
from .help_graphs import BAND, ELLIPSE, PICTURE, SCRIBBLES, Graph
from .in_process import ROOT, host_path
from .server import PACKS, HostServer, prepare_base

GRAPHS = help_graphs.GRAPHS | help_graphs_saliency.GRAPHS | help_graphs_guard.GRAPHS
GRAPHS |= help_graphs_background.GRAPHS | help_graphs_product.GRAPHS
GRAPHS |= help_graphs_editor.GRAPHS | help_graphs_attention.GRAPHS
GRAPHS |= help_graphs_local.GRAPHS | help_graphs_tokens.GRAPHS | help_graphs_structure.GRAPHS
DOCS = ROOT / "web" / "docs"
BASE = ROOT / ".cache" / "pictures-base"
LIMIT = 60_000  # bytes of one picture
MARGIN = 12  # pixels around the nodes
PLAIN = {"Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Graph.LinkMarkers": 0}  # settings of the front end
PLACE = (100, 220)  # of the graph's top left corner on the page: clear of menus and messages

# Places the nodes as the graph says, folds those without a size, at 100 %. -> [width, height] of what is to be seen
LAY_OUT = """([graph, place, margin]) => {
  for (const [id, { at, size }] of Object.entries(graph)) {
    const node = app.graph.getNodeById(id)
    node.pos = at ?? [-1500, 100]
    if (size) node.setSize([size[0], Math.max(size[1], node.computeSize()[1])])
    else if (!node.flags.collapsed) node.collapse()
  }
  app.canvas.deselectAll()
  app.canvas.draw(true, true)
  const boxes = app.graph.nodes.filter(node => graph[node.id].at).map(node => node.boundingRect)
  const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]))
  const right = Math.max(...boxes.map(box => box[0] + box[2])), bottom = Math.max(...boxes.map(box => box[1] + box[3]))
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [place[0] + margin - left, place[1] + margin - top]
  app.canvas.setDirty(true, true)
  return [right - left + 2 * margin, bottom - top + 2 * margin]
}"""
# Whether the nodes `shown` (ids; none that is folded) have got their pictures, and all pictures are loaded.
SETTLED = """shown => shown.every(id => app.graph.getNodeById(id).imgs?.length) &&
  app.graph.nodes.every(node => (node.imgs ?? []).every(image => image.complete))"""


def main() -> int:
    """Draw the pictures of the named nodes, or of all."""
    names = sys.argv[1:] or list(GRAPHS)
    prepare_base(BASE, PACKS)
    _draw_inputs(BASE / "input")
    from playwright.sync_api import sync_playwright

    with HostServer(Path(sys.executable), host_path(), base=BASE) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        server.client.request("/settings", PLAIN)
        page = open_front_end(browser, server, viewport={"width": 1500, "height": 1000})
        for number, name in enumerate(names, 1):
            # The front end keeps what nodes have shown by their id, so no two graphs have the same ids.
            picture = _small(_photograph(page, server, GRAPHS[name], 100 * number))
            (DOCS / f"{name}.png").write_bytes(picture)
            print(f"{name}: {len(picture)} bytes", flush=True)
        browser.close()
    return 0


def _photograph(page, server, graph: Graph, first_id: int) -> Image.Image:
    """What the front end shows of the graph, after it has run if it has something to show."""
    numbers = {name: str(i) for i, name in enumerate(graph, first_id)}
    numbered = {numbers[name]: {**node, "inputs": _renamed(node["inputs"], numbers)} for name, node in graph.items()}
    page.evaluate("graph => app.loadApiJson(graph, 'help')", numbered)
    info, shown = server.client.object_info(), []
    if any(info[node["class_type"]]["output_node"] for node in graph.values()):
        page.evaluate("() => app.queuePrompt(0, 1)")
        page.wait_for_timeout(500)
        while any(server.client.json("/queue").values()):
            page.wait_for_timeout(500)
        last = list(server.client.json("/history").values())[-1]
        if last["status"]["status_str"] != "success":
            raise SystemExit(f"the graph did not run: {last['status']['messages']}")
        shown = [key for key, out in last["outputs"].items() if out.get("images") and numbered[key]["size"]]
        page.wait_for_timeout(1000)
    page.evaluate(LAY_OUT, [numbered, PLACE, MARGIN])
    page.wait_for_timeout(1000)
    page.wait_for_function(SETTLED, arg=shown)
    width, height = page.evaluate(LAY_OUT, [numbered, PLACE, MARGIN])  # again: a preview has taken its room
    page.wait_for_timeout(500)
    clip = {"x": PLACE[0], "y": PLACE[1], "width": width, "height": height}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def _renamed(inputs: dict, numbers: dict[str, str]) -> dict:
    return {key: [numbers[v[0]], v[1]] if isinstance(v, list) else v for key, v in inputs.items()}


def _small(image: Image.Image) -> bytes:
    """-> PNG with as many colours as fit into LIMIT."""
    for colours in (192, 128, 64):
        out = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() <= LIMIT:
            return out.getvalue()
    raise SystemExit(f"{image.size} pixels do not fit into {LIMIT} bytes")


def _draw_inputs(folder: Path) -> None:
    """The pictures that some graphs load."""
    files = {ELLIPSE: "black", BAND: "black", SCRIBBLES: "white", PICTURE: "#808080"}
    images = {name: Image.new("RGB", (256, 256), ground) for name, ground in files.items()}
    pens = {name: ImageDraw.Draw(image) for name, image in images.items()}
    pens[ELLIPSE].ellipse((30, 40, 130, 150), fill="white")
    pens[BAND].rectangle((0, 95, 256, 130), fill="white")
    pens[SCRIBBLES].line([(40, 70), (70, 45), (110, 60)], fill="#e6194b", width=12)
    pens[SCRIBBLES].line([(140, 215), (180, 190), (225, 150)], fill="#4363d8", width=12)
    pens[PICTURE].ellipse((45, 40, 105, 100), fill="#ff5050")
    pens[PICTURE].line([(140, 215), (215, 160)], fill="#6080ff", width=24)
    for name, image in images.items():
        image.save(folder / name)


if __name__ == "__main__":
    sys.exit(main())
