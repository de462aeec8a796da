"""The nodes' texts in English and Chinese, as the host hands them to the front end."""

from __future__ import annotations

import copy
import json

import pytest

from limelight.tools.in_process import ROOT
from limelight.tools.locales import BY_HAND, SOURCES, definitions, fingerprint, load, nodes_file, problems, texts

LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
RENEW = "python -m limelight.tools.locales"
REMEDY = f"run {RENEW}, translate what it lists in {nodes_file(BY_HAND)}, then run {RENEW} --translated"

INFO = {
    "LimelightNode": {
        "display_name": "Node",
        "description": "Does it.",
        "input": {"required": {"a.b": ["INT", {"tooltip": "First."}]}, "optional": {"c": ["MASK", {}]}},
        "output": ["MASK", "INT"],
        "output_name": ["mask", "count"],
        "output_tooltips": None,
    }
}


@pytest.fixture(scope="module")
def english(server) -> dict:
    """What locales/en/nodeDefs.json must say: the schemas of the running host's nodes."""
    info = server.client.object_info().items()
    return definitions({name: node for name, node in info if node["python_module"] == "custom_nodes.limelight"})


def test_english_equals_the_schemas(english):
    assert english and load(nodes_file("en")) == english, f"run {RENEW}"


def test_chinese_is_complete_and_of_today(english):
    assert problems(english, load(nodes_file(BY_HAND)), load(SOURCES)) == [], REMEDY


def test_no_text_has_a_character_that_the_front_end_reads_as_syntax(english):
    current = {path: fingerprint(text) for path, text in texts(english)}
    assert problems(english, english, current) == []


def test_chinese_texts_are_chinese():
    said = dict(texts(load(nodes_file(BY_HAND))))
    names = {path for path in said if path.endswith("/name")}
    assert names < said.keys()
    # names may stay as they are (x, CLIP, IoU); a whole sentence may not
    assert [path for path in said.keys() - names if not any("\u4e00" <= sign <= "\u9fff" for sign in said[path])] == []


def test_chinese_names_every_category(server):
    info = server.client.object_info().values()
    parts = {part for n in info if n["python_module"] == "custom_nodes.limelight" for part in n["category"].split("/")}
    assert parts <= load(nodes_file(BY_HAND).with_name("main.json"))["nodeCategories"].keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_hands_the_texts_to_the_front_end(server, language):
    merged = server.client.json("/i18n")[language]["nodeDefs"]
    own = load(nodes_file(language))
    assert own and {name: merged.get(name) for name in own} == own


def test_languages():
    assert LANGUAGES == ["en", BY_HAND]
    for path in (ROOT / "locales").rglob("*.json"):
        assert path.stem in {"main", "nodeDefs", "commands", "settings"}, f"the host does not read {path}"
        assert json.loads(path.read_text(encoding="utf-8"))


def test_definitions_from_a_node():
    node = definitions(INFO)["LimelightNode"]
    assert node["inputs"] == {"a_b": {"name": "a.b", "tooltip": "First."}, "c": {"name": "c", "tooltip": ""}}
    assert node["outputs"] == {"0": {"name": "mask", "tooltip": ""}, "1": {"name": "count", "tooltip": ""}}


def test_every_kind_of_problem_is_found():
    english = definitions(INFO)
    sources = {path: fingerprint(text) for path, text in texts(english)}
    assert problems(english, english, sources) == [
        f"empty: LimelightNode/{path}/tooltip" for path in ("inputs/c", "outputs/0", "outputs/1")
    ]
    other = copy.deepcopy(english)
    other["LimelightNode"]["description"] = "Does {it}."
    other["LimelightNode"]["inputs"]["old"] = {"name": "old", "tooltip": "Gone."}
    del other["LimelightNode"]["display_name"]
    sources["LimelightNode/inputs/a_b/tooltip"] = fingerprint("Earlier.")
    found = [line for line in problems(english, other, sources) if not line.startswith("empty")]
    assert found == [
        "missing: LimelightNode/display_name (Node)",
        "left over: LimelightNode/inputs/old/name",
        "left over: LimelightNode/inputs/old/tooltip",
        "has one of {}@|: LimelightNode/description",
        "its English is now: LimelightNode/inputs/a_b/tooltip (First.)",
    ]
