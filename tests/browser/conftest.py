"""Fixtures: Chromium, and the host with the newer front end."""

from __future__ import annotations

import shutil
import sys
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
