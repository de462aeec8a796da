"""The development entry: what it does when something is not as it should be."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from limelight.tools import environment
from limelight.tools.console import StepFailed, run_step
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.server import HostServer, link


def test_a_wrong_comfyui_path_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(StepFailed, match="COMFYUI_PATH=.* is no ComfyUI folder"):
        environment.prepare_host()
    with pytest.raises(FileNotFoundError, match="no ComfyUI at"):
        host_path()


def test_tests_take_another_comfyui(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "dev.py"),
        "test",
        "tests/test_dev.py",
        "--host",
        str(tmp_path),
        "--collect-only",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"--host {tmp_path} is no ComfyUI folder" in result.stderr


def test_the_named_comfyui_goes_before_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "other"))
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("")
    assert environment.prepare_host(str(tmp_path)) == tmp_path.resolve()


def test_a_link_follows_its_target(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "kept").write_text("")
    for target in ("b", "b", "a", "b"):
        link(tmp_path / target, tmp_path / "place")
    assert (tmp_path / "place" / "kept").exists() and (tmp_path / "b" / "kept").exists()


def test_a_host_that_dies_while_starting_shows_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no database today')\n")
    with pytest.raises(StepFailed, match="no database today"):
        HostServer(Path(sys.executable), tmp_path, base=tmp_path / "base", packs={}).__enter__()


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StepFailed, match=f"port {port} is in use"):
            HostServer(Path(sys.executable), tmp_path, base=tmp_path / "base", port=port).__enter__()


def test_a_failed_step_shows_the_end_of_its_output(tmp_path):
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(StepFailed, match="(?s)exit 3.*the reason"):
        run_step("Trying", command, tmp_path / "log")


def test_an_unknown_bench_is_answered_with_the_known_ones():
    command = [sys.executable, str(ROOT / "dev.py"), "bench", "no-such-table"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "no bench named 'no-such-table'" in result.stderr and "placement" in result.stderr
