"""The host's executor in this process, with the face of `client.HostClient`: the same graphs, without a server."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .client import WorkflowError, WorkflowRefused, failure
from .in_process import ROOT, host_path, import_host, wait_for


class InProcessHost:
    """Runs workflows with ComfyUI's own executor and models, keeping what it has loaded between them.

    base_directory: whose models/ and input/ are used; by default the host's own folder. packs: custom-node folders,
    Limelight itself by default. What the workflows save goes to a temporary folder, which `close` deletes.
    """

    def __init__(self, base_directory: Path | None = None, packs: Sequence[Path] = (ROOT,)):
        import torch

        path = import_host(base_directory or host_path(), cpu=not torch.cuda.is_available())
        import execution
        import folder_paths
        from utils.extra_config import load_extra_path_config

        import nodes

        if base_directory is None and (path / "extra_model_paths.yaml").is_file():
            load_extra_path_config(str(path / "extra_model_paths.yaml"))
        self._before = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
        self._folder = tempfile.TemporaryDirectory(prefix="limelight-host-")
        folder_paths.set_output_directory(self._folder.name)
        folder_paths.set_temp_directory(self._folder.name)
        wait_for(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        for pack in packs:
            if not wait_for(nodes.load_custom_node(str(pack))):
                raise WorkflowError(f"the host could not load the custom nodes in {pack}; see its messages above")
        server = SimpleNamespace(client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *_: None)
        self._executor = execution.PromptExecutor(
            server, cache_type=execution.CacheType.CLASSIC, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0}
        )
        self._numbers = itertools.count()

    def object_info(self) -> dict[str, Any]:
        """-> every node type, by id, with its "input"."""
        import nodes

        return {name: {"input": node.INPUT_TYPES()} for name, node in nodes.NODE_CLASS_MAPPINGS.items()}

    def run_workflow(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Run an API-format graph; -> {"outputs": ...}. Raises WorkflowRefused, or WorkflowError when a node fails."""
        import execution

        name = f"limelight-{next(self._numbers)}"
        valid, error, outputs, node_errors = wait_for(execution.validate_prompt(name, graph, None))
        if not valid:
            raise WorkflowRefused(f"the host refused the workflow: {error} {node_errors}")
        self._executor.execute(graph, name, {}, outputs)
        if not self._executor.success:
            raise WorkflowError(failure({"status_str": "error", "messages": self._executor.status_messages}))
        return self._executor.history_result

    def messages(self) -> list[tuple[str, dict[str, Any]]]:
        """-> what the host said of the last run: event and data, as in a history entry's status."""
        return self._executor.status_messages

    def images(self, entry: dict[str, Any]) -> list[bytes]:
        """-> every saved or previewed image (PNG bytes) of what `run_workflow` gave. Their files are gone then."""
        found = []
        for output in entry["outputs"].values():
            for item in output.get("images", []):
                path = Path(self._folder.name) / item["subfolder"] / item["filename"]
                found.append(path.read_bytes())
                path.unlink()
        return found

    def close(self) -> None:
        """Free the models' memory and delete the temporary folder."""
        import comfy.model_management
        import folder_paths

        folder_paths.set_output_directory(self._before[0])
        folder_paths.set_temp_directory(self._before[1])
        self._executor.reset()
        comfy.model_management.unload_all_models()
        self._folder.cleanup()
