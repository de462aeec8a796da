"""The blueprints (ready-made subgraphs): what the host lists, and that their nodes are those of today.

That they open and run in the front end is in browser/test_help.py.
"""

from __future__ import annotations

import json

import pytest

from limelight.bench.workflow import widgets
from limelight.tools.in_process import ROOT

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
ENTRY, EXIT = -10, -20  # ids of a subgraph's own inputs and outputs in its links


def test_the_host_lists_the_blueprints(server):
    entries = server.client.json("/global_subgraphs")
    ours = {key: entry for key, entry in entries.items() if entry["info"]["node_pack"] == "custom_nodes.limelight"}
    assert BLUEPRINTS and {entry["name"] for entry in ours.values()} == {path.stem for path in BLUEPRINTS}
    for key, entry in ours.items():
        data = server.client.json(f"/global_subgraphs/{key}")["data"]
        assert data == (ROOT / "subgraphs" / f"{entry['name']}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_one_node_stands_for_the_subgraph(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    (node,), (subgraph,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    assert node["title"] == subgraph["name"] == path.stem
    for side in ("inputs", "outputs"):
        slots = [(slot["name"], slot["type"]) for slot in node[side]]
        assert slots == [(slot["name"], slot["type"]) for slot in subgraph[side]]
    assert len(workflow["extra"]["BlueprintDescription"]) > 40


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_nodes_have_the_slots_and_defaults_of_today(server, path):
    info = server.client.object_info()
    (subgraph,) = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    assert any(node["type"].startswith("Limelight") for node in nodes.values())
    for node in nodes.values():
        known = info[node["type"]]
        groups = (known["input"].get(group, {}) for group in ("required", "optional"))
        inputs = {key: kind[0] for group in groups for key, kind in group.items()}
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == inputs
        # Links name slots by number, and the front end counts all of them: widgets behind the others.
        names = [name for name, _ in widgets(known)]
        assert [slot["name"] for slot in node["inputs"]] == sorted(inputs, key=names.__contains__)
        assert [slot["type"] for slot in node["outputs"]] == known["output"]
        defaults = [default for name, default in widgets(known) if name]
        assert node["widgets_values"] == [default if default is not None else "" for default in defaults]
    for link in subgraph["links"]:
        origin, target = link["origin_id"], link["target_id"]
        out = subgraph["inputs"] if origin == ENTRY else nodes[origin]["outputs"]
        into = subgraph["outputs"] if target == EXIT else nodes[target]["inputs"]
        assert out[link["origin_slot"]]["type"] == link["type"] == into[link["target_slot"]]["type"]
        assert link["id"] in (out[link["origin_slot"]].get("links") or out[link["origin_slot"]].get("linkIds"))
        taken = into[link["target_slot"]]
        assert link["id"] in (taken["linkIds"] if target == EXIT else [taken["link"]])
    linked = {slot["link"] for node in nodes.values() for slot in node["inputs"]} - {None}
    assert linked <= {link["id"] for link in subgraph["links"]}
