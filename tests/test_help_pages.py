"""The help pages: of one form, complete, each with a picture that the front end finds."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from limelight.tools.help_pictures import DOCS, GRAPHS, LIMIT

PAGES = sorted(DOCS.glob("*.md"))
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")


@pytest.fixture(scope="module")
def our_nodes(server) -> dict[str, dict]:
    info = server.client.object_info()
    return {key: value for key, value in info.items() if value["python_module"] == "custom_nodes.limelight"}


def test_every_node_has_a_page_and_a_graph_for_its_picture(our_nodes):
    assert our_nodes
    assert {path.stem for path in PAGES} == set(our_nodes) == set(GRAPHS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_has_the_form(our_nodes, path):
    text, info = path.read_text(encoding="utf-8"), our_nodes[path.stem]
    title, intro, picture, *_ = text.split("\n\n")
    assert title == f"# {info['display_name']}"
    assert intro and intro[0] not in "#!|-"
    assert PICTURE.fullmatch(picture)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    wanted = ["Input" if sum(map(len, info["input"].values())) == 1 else "Inputs"]
    wanted += ["Output" if len(info["output"]) == 1 else "Outputs"]
    assert [heading for heading in headings if heading.startswith(("Input", "Output"))] == wanted
    assert "Tips" in headings or "Example" in headings


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_names_every_input_and_output(our_nodes, path):
    text, info = path.read_text(encoding="utf-8"), our_nodes[path.stem]
    inputs = {
        key: (options[0] if options else {}).get("display_name") or key
        for group in ("required", "optional")
        for key, (_, *options) in info["input"].get(group, {}).items()
    }
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = set(re.findall(r"\*\*([^*]+)\*\*|`([^`]+)`", text))
    named = {word for pair in named for word in pair if word}
    assert {key for key, label in inputs.items() if not {key, label} & named} == set()
    assert set(info["output_name"]) - named == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pictures_are_there_and_small(server, path):
    found = PICTURE.findall(path.read_text(encoding="utf-8"))
    assert found[0][1] == f"{path.stem}.png"
    for alt, name in found:
        # relative to the folder of the pages, which is how the front end reads it
        data = server.client.request(f"/extensions/limelight/docs/{name}")
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
            assert 200 <= picture.width <= 1200 and 80 <= picture.height <= 900
        assert alt and len(data) <= LIMIT


def test_all_pictures_together_are_small_and_used():
    pictures = {path.name: path.stat().st_size for path in DOCS.iterdir() if path.suffix != ".md"}
    used = {name for path in PAGES for _, name in PICTURE.findall(path.read_text(encoding="utf-8"))}
    assert set(pictures) == used
    assert sum(pictures.values()) < 22_000 * len(PAGES)


def test_graphs_are_of_nodes_and_inputs_that_exist(server):
    info = server.client.object_info()
    for name, graph in GRAPHS.items():
        kinds = [node["class_type"] for node in graph.values()]
        assert name in kinds and set(kinds) <= info.keys()
        for node in graph.values():
            known = {key for group in info[node["class_type"]]["input"].values() for key in group}
            assert node["inputs"].keys() - {"control_after_generate"} <= known, (name, node["class_type"])
            sources = [value[0] for value in node["inputs"].values() if isinstance(value, list)]
            assert set(sources) <= graph.keys()
