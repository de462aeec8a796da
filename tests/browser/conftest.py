"""Fixtures: Chromium, and the host with the newer front end."""

from __future__ import annotations

import functools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser_pages import front_end_of, open_bare
from stand_ins import STAND_IN
from stand_ins import write as write_stand_ins

from limelight.bench.workflow import copy_product
from limelight.tools.browser import FLAGS, find_browser, open_front_end
from limelight.tools.console import StepFailed
from limelight.tools.environment import prepare_front_end
from limelight.tools.in_process import ROOT, host_path
from limelight.tools.server import HostServer


@pytest.fixture(scope="session")
def chromium(skip_or_fail):
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    found = find_browser()
    if not found:
        skip_or_fail("the browser tests need Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def newer_server(skip_or_fail, host):
    """As `server`, with the front end that current ComfyUI comes with."""
    try:
        front_end = prepare_front_end()
    except StepFailed as failed:
        skip_or_fail(f"the newer front end cannot be had: {failed}")
    flags = ["--front-end-root", str(front_end)]
    base = ROOT / ".cache" / "test-base-newer"
    write_stand_ins(base / "models", STAND_IN)
    copy_product(base)
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
    """-> function, as `open_bare` but for the first two arguments; no script may have raised an error at the end."""
    pages = []

    def make(*args, **options):
        pages.append(open_bare(chromium, web_url, *args, **options))
        return pages[-1]

    yield make
    problems = [problem for page in pages for problem in page.problems]
    for page in pages:
        page.context.close()
    assert problems == []


@pytest.fixture(scope="session", params=["classic-1.32", "vue-1.32", "classic-1.58", "vue-1.58"])
def front_end_page(request, chromium):
    """The front end in one renderer and version. -> page with `kind`, `vue`, `server`."""
    server, vue = front_end_of(request)
    tab = open_front_end(chromium, server, vue=vue)
    tab.kind, tab.vue, tab.server = request.param, vue, server
    yield tab
    assert tab.problems == []
    tab.close()
