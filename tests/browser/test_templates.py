"""Every template of the template browser, loaded by the real front end and run as that queues it."""

from __future__ import annotations

import json

import pytest
import requests
from attractor_pack.tools.host import ROOT, GraphError
from attractor_pack.tools.templates.__main__ import open_canvas
from attractor_pack.tools.templates.graphs import templates
from PIL import Image

pytestmark = pytest.mark.browser
TEMPLATES = {template.name: template for template in templates()}
SHIPPED = ROOT / "tests" / "graphs"


@pytest.fixture(scope="module")
def canvas(host, browser):
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return open_canvas(page, host.url)


def test_the_template_browser_lists_all_with_a_picture(host):
    listed = requests.get(f"{host.url}/api/workflow_templates", timeout=10).json()
    assert sorted(listed["Attractor"]) == sorted(TEMPLATES)
    for name in TEMPLATES:
        assert requests.get(f"{host.url}/api/workflow_templates/Attractor/{name}.json", timeout=10).json()["nodes"]
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
            assert picture.size == (640, 420)


def shipped():
    """Templates of earlier versions that differ from today's; users have them."""
    def differs(path):
        return path.read_text(encoding="utf-8") != (ROOT / "workflows" / path.name).read_text(encoding="utf-8")

    return [path for path in sorted(SHIPPED.glob("*/*.json")) if differs(path)]


def test_what_was_shipped_is_kept():
    kept = {path.stem for path in SHIPPED.glob("0.1.0/*.json")}
    assert kept == set(TEMPLATES), "copy workflows/*.json to tests/graphs/<version>/ when a version is released"


def test_what_was_shipped_still_loads_and_is_taken(host, canvas):
    for path in shipped():
        graph = json.loads(path.read_text(encoding="utf-8"))
        canvas.evaluate("async graph => { await app.loadGraphData(graph); }", graph)
        prompt = canvas.evaluate("async () => (await app.graphToPrompt()).output")
        assert len(prompt) >= sum(n["type"].startswith("Attractor_") for n in graph["nodes"]), path
        template = TEMPLATES[path.stem]
        answer = requests.post(f"{host.url}/prompt", json={"prompt": prompt}, timeout=30)
        requests.post(f"{host.url}/queue", json={"clear": True}, timeout=30)
        requests.post(f"{host.url}/interrupt", json={}, timeout=30)
        assert answer.ok or (template.models and template.models[0]["name"] in answer.text), f"{path}: {answer.text}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_loads_and_runs(host, canvas, name):
    template = TEMPLATES[name]
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    canvas.evaluate("async graph => { await app.loadGraphData(graph); }", graph)
    prompt = canvas.evaluate("async () => (await app.graphToPrompt()).output")
    canvas.wait_for_timeout(500)
    alerts = canvas.locator(".p-toast-message").all_inner_texts()
    assert alerts == [] and canvas.problems == []
    by_name = match(template, prompt)
    if template.models:
        dialog = canvas.locator(".p-dialog")  # front ends up to 1.40 or so; later ones have a notice at the side
        said = dialog.inner_text() if dialog.count() else canvas.inner_text("body")
        assert said.count(template.models[0]["name"]) == 1, "says what is missing"
        if canvas.locator(".p-dialog-close-button").count():
            canvas.locator(".p-dialog-close-button").first.click()
            canvas.wait_for_function("() => !document.querySelector('.p-dialog')")
        with pytest.raises(GraphError, match=template.models[0]["name"]):
            host.queue(prompt)
        return
    for node, inputs in template.quick.items():
        prompt[by_name[node]]["inputs"].update(inputs)
    run = host.queue(prompt)
    assert run.outputs[by_name[template.picture]]["images"]
    said = " ".join(text for output in run.outputs.values() for text in output.get("text", []))
    assert "Traceback" not in said


def match(template, prompt):
    """The ids of the template's nodes in what the front end would queue, which must be what tools/templates says."""
    found, free = {}, dict(prompt)
    for name, entry in template.nodes.items():
        literals = {k: v for k, v in entry["inputs"].items() if not isinstance(v, list)}
        fits = [i for i, node in free.items() if node["class_type"] == entry["class_type"]
                and all(node["inputs"].get(k) == v for k, v in literals.items())]  # fmt: skip
        assert fits, f"{name}: run python -m attractor_pack.tools.templates"
        found[name] = fits[0]
        del free[fits[0]]
    assert not free
    for name, entry in template.nodes.items():
        for key, (source, slot) in ((k, v) for k, v in entry["inputs"].items() if isinstance(v, list)):
            link = prompt[found[name]]["inputs"][key]
            assert link[1] == slot and prompt[link[0]]["class_type"] == template.nodes[source]["class_type"]
    return found
