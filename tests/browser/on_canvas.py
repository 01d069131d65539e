"""What tests do with the pack's nodes on the front end's canvas."""

from __future__ import annotations

import json

from attractor_pack.tools.host import ROOT
from attractor_pack.tools.templates.__main__ import open_canvas, wait_until_idle

QUICKSTART = json.loads((ROOT / "workflows" / "Quickstart.json").read_text(encoding="utf-8"))
NODE = "name => app.graph._nodes.find(n => n.type === 'Attractor_' + name)"
PANEL = f"name => (({NODE})(name)).widgets.find(w => w.name === 'attractor_panel')?.element"
SHORT = {
    "Attractor_Train": {"steps": 60, "background_steps": 20, "views": 1},
    "Attractor_SampleGrid": {"steps": 2, "seeds": 1},
}


def opened(host, browser):
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)) if "/extensions/" in str(error.stack) else None)
    page.on("console", lambda said: page.problems.append(said.text) if ours(said) else None)
    return open_canvas(page, host.url)


def ours(said):
    by_us = "ttractor" in said.text or "/extensions/Attractor/" in str(said.location)
    return said.type in ("error", "warning") and by_us


def load(page, graph, short=True):
    page.evaluate("async graph => { await app.loadGraphData(graph); }", graph)
    if short:
        page.evaluate(
            """wanted => { for (const node of app.graph._nodes)
                for (const [k, v] of Object.entries(wanted[node.type] ?? {}))
                    node.widgets.find(w => w.name === k).value = v; }""",
            SHORT,
        )  # fmt: skip


def text(page, name):
    return page.evaluate(f"name => ({PANEL})(name).textContent", name)


def wait_for(page, name, words, timeout=240_000):
    page.wait_for_function(
        f"([name, words]) => new RegExp(words).test(({PANEL})(name)?.textContent ?? '')",
        arg=[name, words],
        timeout=timeout,
    )


def queue(page, **train):
    """Queue what is on the canvas, with widgets of the Train node changed."""
    for key, value in train.items():
        page.evaluate(
            f"([k, v]) => {{ ({NODE})('Train').widgets.find(w => w.name === k).value = v; }}", [key, value]
        )
    page.evaluate("() => { app.queuePrompt(0); }")


def stop(page):
    page.evaluate("() => app.api.interrupt()")
    wait_until_idle(page, 300)


def centre(page, name):
    page.evaluate(f"name => {{ app.canvas.ds.scale = 0.9; app.canvas.centerOnNode(({NODE})(name)); }}", name)
    page.wait_for_timeout(400)


def searched(page, words):
    """What the front end's search of nodes lists."""
    box = ".comfy-vue-node-search-container input, input[role=combobox][aria-controls=results-list]"
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.locator(box).fill(words)
    page.wait_for_timeout(500)
    found = page.locator(".comfy-vue-node-search-container li, #results-list [role=option]").all_inner_texts()
    page.keyboard.press("Escape")
    page.wait_for_function("box => !document.querySelector(box)", arg=box)
    return found
