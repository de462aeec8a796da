"""The host as a separate process, with the pack linked into its custom nodes. Standard library only."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import urllib.error
from collections.abc import Sequence
from pathlib import Path

from .client import HostClient
from .console import StepFailed, say

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / ".base"
PACKS = {"limelight": ROOT, "limelight_shapeworld": ROOT / "shapeworld" / "nodes"}
START_SECONDS = 600

_COMPLAINT = re.compile(r"IMPORT FAILED|warning|error|exception|traceback|cannot import|deprecat", re.IGNORECASE)


def free_port() -> int:
    """-> a TCP port on the loopback address that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link(target: Path, place: Path) -> None:
    """Make `place` another name of the folder `target`: a symbolic link, or a junction on Windows."""
    if place.exists() and place.resolve() == target.resolve():
        return  # linked already, or there itself
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        os.rmdir(place)  # a junction goes, its target stays; a real folder with content is not ours to delete
    try:
        place.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        import _winapi  # symbolic links need a privilege there, junctions do not

        _winapi.CreateJunction(str(target), str(place))


def prepare_base(base: Path, packs: dict[str, Path]) -> list[str]:
    """Make the folders the host expects under `base` and link the packs; -> the names of those that exist."""
    for name in ("custom_nodes", "input", "models", "output", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    present = {name: target for name, target in packs.items() if (target / "__init__.py").is_file()}
    for name, target in present.items():
        link(target, base / "custom_nodes" / name)
    return list(present)


def complaints(log: str, *own_paths: Path) -> list[str]:
    """-> the lines of a host log that report something wrong and name the pack.

    own_paths are taken out first: the repository's own folder may be called limelight, and then every path names it.
    What a node tells its user about an input (LimelightError) is an answer, not a complaint.
    """
    for path in own_paths:
        log = log.replace(str(path), "")
    lines = [line for line in log.splitlines() if "LimelightError" not in line]
    return [line for line in lines if "limelight" in line.lower() and _COMPLAINT.search(line)]


class HostServer:
    """A running host: ``with HostServer(python, host) as server: server.client.run_workflow(graph)``.

    python: the interpreter to run it with; host: ComfyUI's folder; base: where it keeps its files; port: 0 for a free
    one; flags: further ones for the host's main.py; packs: folders to link, by the name they get. Entering waits until
    the host answers and raises StepFailed, with the log, when it ends before, when a pack failed to load, or when it
    loaded with a warning. Leaving always stops the process.
    """

    def __init__(
        self,
        python: Path,
        host: Path,
        base: Path = BASE,
        port: int = 0,
        flags: Sequence[str] = (),
        packs: dict[str, Path] = PACKS,
    ):
        self.python, self.host, self.base, self.flags, self.packs = Path(python), Path(host), base, flags, packs
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = HostClient(self.url)
        self.log_path = self.base / f"host-{self.port}.log"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> HostServer:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise StepFailed(f"port {self.port} is in use by another program; choose one with --port, 0 for any")
        packs = prepare_base(self.base, self.packs)
        command = [str(self.python), "-m", "limelight.tools.run_host", str(self.host)]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        say(f"starting the host on port {self.port} ...")
        # PYTHONSAFEPATH keeps the current folder, whose nodes/ would hide the host's nodes.py, off sys.path.
        env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        with self.log_path.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*command, *self.flags], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=env
            )
        try:
            self._wait()
            self._check_packs(packs)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, *_) -> None:
        self.stop()
        if kind is None:
            self.log_path.unlink(missing_ok=True)

    def log(self) -> str:
        """-> all that the host has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def complaints(self) -> list[str]:
        """-> the lines of its log so far that report something wrong and name the pack."""
        return complaints(self.log(), self.host, ROOT)

    def running(self) -> bool:
        """-> whether the process is still there."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process at once, as a crash would: it gets no chance to tidy up."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process; harmless when it has ended already."""
        process, self._process = self._process, None
        if process is None:
            return
        process.stdin.close()  # the launcher ends itself then
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self) -> None:
        started = shown = time.monotonic()
        while True:
            if self._process.poll() is not None:
                raise StepFailed(f"the host ended while starting (exit {self._process.returncode}):\n{self.log()}")
            try:
                self.client.request("/system_stats", timeout=5)
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
            now = time.monotonic()
            if now - started > START_SECONDS:
                raise StepFailed(f"the host did not answer within {START_SECONDS} s:\n{self.log()}")
            if now - shown > 5:
                shown = now
                say(f"    {now - started:3.0f} s, the host is loading")

    def _check_packs(self, packs: list[str]) -> None:
        loaded = {info.get("python_module") for info in self.client.object_info().values()}
        missing = [name for name in packs if f"custom_nodes.{name}" not in loaded]
        found = self.complaints()
        if missing or found:
            reason = f"no node of {', '.join(missing)} is loaded" if missing else "the pack loaded with warnings"
            raise StepFailed(f"{self.log()}\n{reason}:\n" + "\n".join(found))
