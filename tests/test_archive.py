"""What the registry would publish, packed by its own tool: small, clean, complete, and a pack by itself."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from manager_scan import find_nodes

from limelight.bench.workflow import load_workflow, on_shapeworld, to_prompt
from limelight.tools.console import StepFailed
from limelight.tools.environment import prepare_comfy_cli
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.server import HostServer

LIMIT = 2_000_000  # bytes of the packed archive
TEXTS = {".py", ".js", ".css", ".md", ".toml", ".txt", ".json", ""}

# Strings that the registry's scanner takes for something else, wherever they stand; a hit gets the published version
# flagged. Last: what a pack of V3 nodes must not have.
FORBIDDEN = ("eval(", "exec(", "__import__(", "marshal.", "CodeType", "pickle.load", "ctypes")
FORBIDDEN += ("subprocess", "os.system", "os.popen", "rm -rf", "os.environ", "os.getenv", "os.putenv")
FORBIDDEN += ("import requests", "requests.", "urllib", "http.client", "aiohttp", "import socket", "websocket")
FORBIDDEN += (
    ".connect(",
    ".bind(",
    ".send(",
    "raw.githubusercontent",
    "XMLHttpRequest",
    "NODE_CLASS_MAPPINGS",
    "sys.path",
)
PACK = """
import dataclasses, json, sys
from comfy_cli.file_utils import zip_files
from comfy_cli.registry.config_parser import extract_node_configuration
config = extract_node_configuration()
zip_files(sys.argv[1], includes=config.tool_comfy.includes)
print(json.dumps(dataclasses.asdict(config)))
"""


@pytest.fixture(scope="module")
def archive(skip_or_fail, tmp_path_factory) -> SimpleNamespace:
    """What `comfy node pack` makes of this checkout: `zip` its file, `folder` where it is unpacked, `names` the files,
    `said` what the tool printed, the last line being what the registry is told of the pack."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        skip_or_fail("git and a checkout are needed to make the archive")
    try:
        tool = prepare_comfy_cli()
    except StepFailed as failed:
        skip_or_fail(f"comfy-cli cannot be had: {failed}")
    place = tmp_path_factory.mktemp("archive")
    command = [sys.executable, "-c", PACK, str(place / "node.zip")]
    env = {**os.environ, "PYTHONPATH": str(tool), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    folder = place / "custom_nodes" / "limelight"
    with zipfile.ZipFile(place / "node.zip") as packed:
        names = packed.namelist()
        packed.extractall(folder)
    return SimpleNamespace(zip=place / "node.zip", folder=folder, names=names, said=result.stdout.strip().splitlines())


def texts(archive) -> list[tuple[str, str]]:
    paths = [(name, archive.folder / name) for name in archive.names if Path(name).suffix in TEXTS]
    return [(name, path.read_text(encoding="utf-8")) for name, path in paths]


def test_archive_is_small_and_holds_the_pack_and_no_more(archive):
    names = set(archive.names)
    assert len(names) == len(archive.names) > 100
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "nodes/__init__.py"} <= names
    assert {"web/limelight_canvas.js", "web/docs/LimelightHighlightCanvas.md"} <= names
    allowed = {"nodes", "guidance", "models", "web", "workflows", "locales", "subgraphs"}
    assert {name.split("/")[0] for name in names if "/" in name} == allowed
    assert {Path(name).suffix for name in names} <= TEXTS | {".png", ".jpg"}
    assert all(name.isascii() for name in names)  # git quotes other names, and the packer then misses the file
    assert archive.zip.stat().st_size < LIMIT


def test_the_registry_is_told_what_it_asks_for(archive):
    *warnings, config = archive.said
    assert warnings == []
    project, comfy = json.loads(config)["project"], json.loads(config)["tool_comfy"]
    assert project["name"] == "limelight" and "comfyui" not in project["name"]
    assert project["version"].count(".") == 2 and project["license"]["text"] == "Apache-2.0"
    assert project["dependencies"] == (ROOT / "requirements.txt").read_text().split()
    assert project["supported_comfyui_version"] and project["supported_os"] and project["description"]
    assert comfy["publisher_id"] and comfy["display_name"] and not comfy["web"]


def test_the_registrys_lint_is_clean():
    """`comfy node validate` runs this rule on the whole checkout and warns of what it finds."""
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--select", "S102,S307,E702"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_archive_has_no_string_that_gets_it_flagged(archive):
    found = [(name, word) for name, text in texts(archive) for word in FORBIDDEN if word in text]
    assert found == []


def test_shipped_code_imports_itself_relatively_and_nothing_that_stays_behind(archive):
    packages = {name.split("/")[0] for name in archive.names if name.endswith(".py") and "/" in name}
    for name, text in texts(archive):
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert not [module for module in names if module.split(".")[0] == "limelight"], name
            if isinstance(node, ast.ImportFrom) and node.level:
                base = name.split("/")[: -node.level]
                assert (base + (node.module or "").split("."))[0] in packages | {""}, f"{name}: {ast.unparse(node)}"


def test_archive_runs_by_itself_in_an_empty_host(archive):
    """Unpacked, in a host that has nothing else but shapeworld's loader."""
    packs = {"limelight": archive.folder, "limelight_shapeworld": ROOT / "shapeworld" / "nodes"}
    base = archive.folder.parents[1]
    with HostServer(Path(sys.executable), host_path(), base=base, packs=packs) as server:
        info = server.client.object_info()
        listed = {name for name, node in info.items() if node["python_module"] == "custom_nodes.limelight"}
        assert listed and listed == find_nodes(archive.folder)
        prompt = to_prompt(on_shapeworld(load_workflow(archive.folder / "workflows" / "highlight_basic.json")), info)
        for node in prompt.values():
            if node["class_type"] == "KSampler":
                node["inputs"]["steps"] = 2
        assert server.client.images(server.client.run_workflow(prompt))
        assert server.client.request("/extensions/limelight/limelight_canvas.js")
        assert server.complaints() == []
        assert str(archive.folder) in server.log()  # of its list of import times
