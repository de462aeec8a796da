"""Fixtures: Chromium, and the host with the newer front end."""

from __future__ import annotations

import functools
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser_pages import FLAGS

from limelight.tools.environment import prepare_front_end
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.server import HostServer


@pytest.fixture(scope="session")
def chromium(skip_or_fail):
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    if not any(found):
        skip_or_fail("the browser tests need Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=next(filter(None, found)), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def newer_server():
    """As `server`, with the front end that current ComfyUI comes with."""
    flags = ["--front-end-root", str(prepare_front_end())]
    base = ROOT / ".cache" / "test-base-newer"
    with HostServer(Path(sys.executable), host_path(), base=base, flags=flags) as running:
        yield running


@pytest.fixture(scope="session")
def web_url():
    """The pack's web folder, served alone: the canvases work without the host."""
    handler = functools.partial(Quiet, directory=ROOT / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """Says nothing about the files it serves."""


@pytest.fixture
def bare_page(chromium, web_url):
    """-> function (kind="highlight", **context options) -> page with one canvas of that kind, 640 x 560 pixels.

    In the page: `canvas` (what createHighlightCanvas gave), `size` (of the image, may be changed), `prompt`, `edits`.
    """
    contexts = []

    def make(kind: str = "highlight", width: int = 640, height: int = 560, **options):
        context = chromium.new_context(**{"viewport": {"width": 700, "height": 600}, **options})
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
        body = BARE.replace("KIND", kind.capitalize()).replace("WIDE", str(width)).replace("HIGH", str(height))
        page.route("**/bare.html", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.route("**/favicon.ico", lambda route: route.fulfill(body=""))
        page.goto(f"{web_url}/bare.html")
        page.wait_for_function("window.canvas && document.querySelector('.ll-live').width > 1")
        return page

    yield make
    problems = [problem for context in contexts for page in context.pages for problem in page.problems]
    for context in contexts:
        context.close()
    assert problems == []


BARE = """<!doctype html><meta charset="utf-8"><title>canvas</title>
<body style="margin:8px;background:#222"><div id="place" style="width:WIDEpx;height:HIGHpx"></div>
<script type="module">
import { createHighlightCanvas } from "/limelight/highlight_canvas.js";
import { createSaliencyCanvas } from "/limelight/saliency_canvas.js";
Object.assign(window, { size: [512, 512], prompt: "", edits: [] });
window.canvas = createKINDCanvas({ size: () => size, prompt: () => prompt, onEdit: (text) => edits.push(text) });
document.getElementById("place").append(canvas.element);
</script>"""
