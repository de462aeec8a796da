"""The host's front end in headless Chromium, for the browser tests and the pictures of the help pages."""

from __future__ import annotations

import shutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
SIZE = {"width": 1600, "height": 900}
READY = "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.KSampler"


def find_browser() -> str | None:
    """-> the path of the Chromium of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def open_front_end(browser, server, *, vue: bool = False, persist: bool = False, language: str = "en", **options):
    """The host's front end, loaded. -> page; `page.problems` collects the errors that scripts raise.

    server: a running `HostServer`; vue: with Nodes 2.0; persist: the open workflow outlives a reload; options: of the
    browser's page.
    """
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.InstalledVersion": "1.32.9",
        "Comfy.Workflow.Persist": persist,
        "Comfy.VueNodes.Enabled": vue,
        "Comfy.ColorPalette": "dark",
        "Comfy.Minimap.Visible": False,  # it would lie over what is drawn on
        "Comfy.Locale": language,
    }
    server.client.request("/settings", settings)
    page = browser.new_page(**{"viewport": SIZE, **options})
    page.set_default_timeout(60_000)
    # Nothing but the host is reached: the front end would otherwise wait for services of the outside world.
    page.route("**/*", lambda route: route.continue_() if server.url in route.request.url else route.abort())
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(server.url)
    page.wait_for_function(READY)
    return page
