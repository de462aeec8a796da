"""The pack as others meet it: an import, an archive, a folder in the host's custom nodes."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest

from limelight.tools.console import StepFailed
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.server import HostServer, complaints

# Strings that the registry's scanner takes for something else; a hit gets the published version flagged.
FORBIDDEN = ("eval(", "exec(", "subprocess", "os.system", "os.environ", "requests.", "import requests", "urllib")
FORBIDDEN += (".connect(", ".bind(", ".send(", "raw.githubusercontent", "NODE_CLASS_MAPPINGS", "sys.path")


@pytest.fixture(scope="module")
def archive(skip_or_fail) -> list[Path]:
    """What the registry would publish: git's files less those that .comfyignore names."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        skip_or_fail("git and a checkout are needed to list the archive")

    def listed(*options: str) -> set[str]:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")) - {""}

    names = listed("--cached") - listed("--cached", "--ignored", "--exclude-from=.comfyignore")
    return [ROOT / name for name in sorted(names)]


@pytest.fixture(scope="module")
def our_nodes(server) -> dict[str, dict]:
    """The pack's nodes as the running host describes them."""
    info = server.client.object_info()
    return {key: value for key, value in info.items() if value["python_module"] == "custom_nodes.limelight"}


def test_import_is_cheap():
    code = (
        "import sys, time; start = time.perf_counter(); import limelight; cost = time.perf_counter() - start;"
        "print(cost, *[name for name in ('torch', 'comfy', 'numpy', 'cv2') if name in sys.modules])"
    )
    runs = []
    for _ in range(3):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append(result.stdout.split())
    assert all(len(run) == 1 for run in runs), f"import limelight also imported {runs[0][1:]}"
    assert min(float(run[0]) for run in runs) < 0.05


def test_requirements_equal_dependencies():
    lines = (ROOT / "requirements.txt").read_text().split()
    declared = [line for line in importlib.metadata.requires("limelight") if "extra ==" not in line]
    assert lines == declared == ["opencv-python"]


def test_archive_holds_the_pack_and_no_more(archive):
    names = {path.relative_to(ROOT).as_posix() for path in archive}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "nodes/__init__.py"} <= names
    assert {"web/limelight_canvas.js", "web/docs/LimelightHighlightCanvas.md"} <= names
    allowed = {"nodes", "guidance", "models", "web", "workflows", "locales", "subgraphs"}
    assert {name.split("/")[0] for name in names if "/" in name} <= allowed
    assert sum(path.stat().st_size for path in archive) < 5_000_000


def test_archive_has_no_string_that_gets_it_flagged(archive):
    hits = []
    for path in archive:
        if path.suffix in {".py", ".js", ".md", ".toml", ".txt", ".json"}:
            text = path.read_text(encoding="utf-8")
            hits += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert not hits


def test_shipped_code_imports_itself_relatively(archive):
    for path in archive:
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                assert not [name for name in names if name.split(".")[0] == "limelight"], path


def scanned_ids() -> set[str]:
    """Node ids found the way the Manager's scanner does: read from the source, nothing imported."""
    found = set()
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.ClassDef) and {ast.unparse(base) for base in item.bases} & {
                "io.ComfyNode",
                "ComfyNode",
            }:
                found |= {
                    keyword.value.value
                    for call in ast.walk(item)
                    if isinstance(call, ast.Call)
                    for keyword in call.keywords
                    if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
                }
    return found


def test_scanner_finds_every_node(our_nodes):
    assert our_nodes
    assert scanned_ids() == set(our_nodes)
    assert all(name.startswith("Limelight") for name in our_nodes)


def test_host_loads_the_pack_without_a_complaint(server, our_nodes):
    assert server.complaints() == []


def test_every_node_explains_itself(our_nodes):
    missing = []
    for name, info in our_nodes.items():
        if not info["description"] or not info["category"].startswith("limelight/"):
            missing.append(f"{name}: description or category")
        for group in ("required", "optional"):
            for key, (_, *options) in info["input"].get(group, {}).items():
                if not options or not options[0].get("tooltip"):
                    missing.append(f"{name}: input {key}")
        tooltips = info["output_tooltips"] or [None] * len(info["output"])
        for key, tooltip in zip(info["output_name"], tooltips, strict=True):
            if not tooltip:
                missing.append(f"{name}: output {key}")
    assert not missing


def test_every_node_has_a_help_page(server, our_nodes):
    missing = []
    for name in our_nodes:
        try:
            page = server.client.request(f"/extensions/limelight/docs/{name}.md").decode()
        except urllib.error.HTTPError:
            page = ""
        if len(page) < 200:
            missing.append(name)
    assert not missing
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == set(our_nodes)


def test_complaints_are_found_in_a_log_and_paths_are_not_complaints():
    root = Path("/home/me/ComfyUI-Limelight")
    log = (
        f"Cannot import {root}/.host/comfyui/comfy_extras/nodes_audio.py module: No module named 'torchaudio'\n"
        f"   0.0 seconds: {root}/.base/custom_nodes/limelight\n"
    )
    assert complaints(log, root) == []
    failed = f"   0.1 seconds (IMPORT FAILED): {root}/.base/custom_nodes/limelight"
    assert complaints(log + failed, root) == [failed.replace(str(root), "")]


def test_a_pack_that_fails_to_import_fails_loudly(tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no such thing')\n")
    host = HostServer(Path(sys.executable), host_path(), base=tmp_path / "base", packs={"limelight": broken})
    with pytest.raises(StepFailed, match="no node of limelight is loaded") as caught, host:
        pass
    assert "IMPORT FAILED" in str(caught.value) and "no such thing" in str(caught.value)
    assert not host.running()
