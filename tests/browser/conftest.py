"""One Chromium for the browser's tests, and a host for those that leave their marks on it."""

from __future__ import annotations

import shutil

import pytest
from attractor_pack.tools.host import Host
from attractor_pack.tools.models import link_into
from attractor_pack.tools.templates.__main__ import no_first_visit
from playwright.sync_api import sync_playwright

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def launched(chromium, *args):
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "Chromium is not installed: apt-get install chromium"
    return chromium.launch(executable_path=path, args=[*ARGS, *args])


@pytest.fixture(scope="module")
def browser():
    """A real browser; that it is missing is a failure."""
    with sync_playwright() as playwright:
        found = launched(playwright.chromium)
        yield found
        found.close()


@pytest.fixture
def unhurried(browser):
    """Another one, that waits for no screen: frames follow one another as fast as they are drawn."""
    found = launched(browser.browser_type, "--disable-frame-rate-limit", "--disable-gpu-vsync")
    yield found
    found.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A host of a module's own, in which nobody has been before: what one test saves or sets, the next one finds."""
    base = tmp_path_factory.mktemp("host")
    link_into(base)
    with Host(base, pack_name="Attractor") as running:
        no_first_visit(running)
        yield running
