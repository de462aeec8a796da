"""A client of the host's HTTP API. Standard library only."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any


class WorkflowError(RuntimeError):
    """The host refused a workflow, or one of its nodes failed; the message has the host's own words."""


class WorkflowRefused(WorkflowError):
    """The host did not accept the workflow: it would not accept it with other values of its inputs either."""


class HostClient:
    """Talks to a running host at `url`, for example http://127.0.0.1:8188."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        # No proxy: the host is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(self, path: str, body: Any = None, timeout: float = 60) -> bytes:
        """GET `path`, or POST `body` as JSON; -> the answer's bytes. Raises urllib.error.HTTPError as it comes."""
        data = None if body is None else json.dumps(body).encode()
        return self._send(path, data, "application/json", timeout)

    def _send(self, path: str, data: bytes | None, kind: str, timeout: float = 60) -> bytes:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind} if data else {})
        with self._opener.open(request, timeout=timeout) as answer:
            return answer.read()

    def upload(self, name: str, image: bytes) -> None:
        """Put an image into the host's input folder, over one of that name."""
        border = uuid.uuid4().hex
        head = f'Content-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: image/png'
        over = 'Content-Disposition: form-data; name="overwrite"\r\n\r\ntrue'
        parts = [over.encode(), head.encode() + b"\r\n\r\n" + image]
        body = b"".join(b"--%s\r\n%s\r\n" % (border.encode(), part) for part in parts)
        self._send("/upload/image", body + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}")

    def json(self, path: str, body: Any = None) -> Any:
        """As `request`, with the answer parsed."""
        return json.loads(self.request(path, body) or b"null")

    def object_info(self) -> dict[str, Any]:
        """-> every node the host knows, by id."""
        return self.json("/object_info")

    def queue(self, graph: dict[str, Any]) -> str:
        """Queue an API-format graph ({"id": {"class_type", "inputs"}}); -> its prompt id. Raises WorkflowError."""
        try:
            return self.json("/prompt", {"prompt": graph})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise WorkflowRefused(f"the host refused the workflow: {error.read().decode(errors='replace')}") from None

    def run_workflow(self, graph: dict[str, Any], timeout: float = 600) -> dict[str, Any]:
        """Queue the graph and wait for its end; -> its history entry ({"outputs", "status", ...}).

        Raises WorkflowError when the host refuses it, a node fails, or `timeout` seconds have passed.
        """
        prompt_id = self.queue(graph)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.json(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry["status"]["completed"]:
                return entry
            if entry:
                raise WorkflowError(failure(entry["status"]))
            time.sleep(0.1)
        self.request("/interrupt", {})
        raise WorkflowError(f"the workflow was not done after {timeout:.0f} s and was interrupted")

    def file(self, item: dict[str, str]) -> bytes:
        """-> the bytes of one entry of outputs[node]["images"] ({"filename", "subfolder", "type"})."""
        return self.request("/view?" + urllib.parse.urlencode(item))

    def images(self, entry: dict[str, Any]) -> list[bytes]:
        """-> every saved or previewed image (PNG bytes) of a history entry, in the order of its nodes."""
        return [self.file(item) for output in entry["outputs"].values() for item in output.get("images", [])]


def cached_nodes(messages: list) -> set[str]:
    """-> the nodes of a run that the host took from an earlier one. messages: those of its status.

    Newer hosts tell once more what such nodes had shown; older ones leave them out of the outputs.
    """
    return {node for event, told in messages if event == "execution_cached" for node in told["nodes"]}


def failure(status: dict[str, Any]) -> str:
    """-> what went wrong, in the host's words, from the status of a run that did not succeed."""
    for event, data in status["messages"]:
        if event == "execution_error":
            trace = "".join(data.get("traceback", []))
            where = f"node {data['node_id']} ({data['node_type']})"
            return f"{where}: {data['exception_type']}: {data['exception_message']}\n{trace}"
    return f"the workflow ended as {status['status_str']!r}: {status['messages']}"
