"""The pack as others meet it: an import, a folder in the host's custom nodes. The archive: test_archive.py."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
from manager_scan import find_nodes

from limelight.tools.console import StepFailed
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.server import HostServer, complaints


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


def test_scanner_finds_every_node(our_nodes):
    assert our_nodes
    assert find_nodes(ROOT / "nodes") == set(our_nodes)
    assert all(name.startswith("Limelight") for name in our_nodes)


def test_the_scanners_rules(tmp_path):
    """A class between, an id that is put together: what the Manager misses, the scan here misses too."""
    (tmp_path / "nodes.py").write_text(
        "class Direct(io.ComfyNode):\n    def define_schema(cls):\n        return io.Schema(node_id='LimelightA')\n"
        "class Between(Direct):\n    def define_schema(cls):\n        return io.Schema(node_id='LimelightB')\n"
        "class Computed(ComfyNode):\n    def define_schema(cls):\n        return io.Schema(node_id='Lime' + C)\n"
    )
    assert find_nodes(tmp_path) == {"LimelightA", "Computed"}


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
