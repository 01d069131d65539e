"""In a real browser: the report page, and the pack's nodes on the front end's canvas."""

from __future__ import annotations

import pytest
from attractor_pack.tools.graphs import main_road

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return page


def test_the_report_page(server, page, tmp_path):
    graph = main_road(name="browser", report="browser", seeds=1, sampler={"steps": 2},
                      training={"steps": 4, "background_steps": 2, "views": 1})  # fmt: skip
    server.queue(graph)
    path = server.base / "output" / "attractor" / "browser" / "report.html"
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert "One cup, learnt from 5 photos" in page.inner_text("h1")
    sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.alt])")
    assert len(sizes) > 15 and all(width > 0 and alt for width, alt in sizes)
    assert [u for u in requests if not u.startswith(("file:", "data:"))] == []
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert over <= 0, f"the page is {over} px too wide at {width} px"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    page.emulate_media(color_scheme="light")
    assert page.problems == []


def test_the_nodes_on_the_canvas(server, page, tmp_path):
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(server.url)
    page.wait_for_function("() => !!(window.app?.graph && window.LiteGraph?.registered_node_types?.Attractor_Train)")
    page.wait_for_timeout(3000)  # the front end restores its last or its default graph
    found = page.evaluate(
        """async () => {
            app.graph.clear();
            const names = Object.keys(LiteGraph.registered_node_types).filter(n => n.startsWith('Attractor_'));
            const nodes = names.map(n => { const node = LiteGraph.createNode(n); app.graph.add(node); return node; });
            const [train, mask] = ['Train', 'Mask'].map(k => nodes.find(n => n.type === 'Attractor_' + k));
            const prompt = await app.graphToPrompt();
            return { names, widgets: train.widgets.map(w => w.name), outputs: train.outputs.map(o => o.name),
                     mask: mask.widgets.map(w => w.name),
                     queued: Object.values(prompt.output).map(n => n.class_type) };
        }"""
    )
    assert set(found["names"]) == {name for name in server.object_info() if name.startswith("Attractor_")}
    assert found["mask"][:4] == ["back_end", "grow", "feather", "fill_holes"], "saved graphs would load wrong values"
    assert found["outputs"] == ["concept", "loss curve", "run card"]
    assert found["widgets"][:3] == ["steps", "batch_size", "learning_rate"]
    assert "control_after_generate" not in found["widgets"], "a queue would change the seed and train again"
    assert set(found["names"]) == set(found["queued"])
    page.screenshot(path=str(tmp_path / "canvas.png"))
    assert (tmp_path / "canvas.png").stat().st_size > 20_000
