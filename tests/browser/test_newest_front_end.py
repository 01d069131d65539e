"""The extension and the templates in the newest front end, which artists have long before we test with a newer host."""

from __future__ import annotations

import json

import pytest
from attractor_pack.tools.host import ROOT, Host, fetch_front_end
from attractor_pack.tools.models import link_into
from attractor_pack.tools.templates.__main__ import no_first_visit, wait_until_idle
from on_canvas import PANEL, QUICKSTART, centre, load, opened, queue, searched, text, wait_for

pytestmark = pytest.mark.browser
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
OVERLAPS = """() => {
    const scale = app.canvas.ds.scale;
    const boxes = app.graph._nodes.map((node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`); // of a Vue node
        const height = element ? element.getBoundingClientRect().height / scale : node.size[1];
        return { name: node.title, left: node.pos[0], top: node.pos[1], bottom: node.pos[1] + height };
    });
    const below = (a) => boxes.filter((b) => b.left === a.left && b.top > a.top && b.top < a.bottom);
    const said = (a) => below(a).map((b) => `${a.name} covers ${b.name} by ${Math.round(a.bottom - b.top)} px`);
    return [boxes.length, boxes.flatMap(said)];
}"""


@pytest.fixture(scope="module")
def newest(tmp_path_factory):
    """A host with the newest front end."""
    base = tmp_path_factory.mktemp("newest")
    link_into(base)
    with Host(base, arguments=("--front-end-root", str(fetch_front_end()))) as running:
        no_first_visit(running)
        yield running


@pytest.fixture(scope="module", params=["vue", "classic"])
def canvas(newest, browser, request):
    """A page with the new Vue nodes, and one with those drawn on the canvas."""
    path = newest.base / "user" / "default" / "comfy.settings.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"Comfy.VueNodes.Enabled": request.param == "vue"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    page = opened(newest, browser)
    page.vue = request.param == "vue"
    yield page
    page.close()


def test_the_quickstart_fills_its_panels(canvas):
    load(canvas, QUICKSTART)
    canvas.wait_for_timeout(2000)
    assert canvas.evaluate("() => Boolean(LiteGraph.vueNodesMode)") == canvas.vue
    queue(canvas)
    wait_for(canvas, "Score", "Open report", timeout=400_000)
    wait_until_idle(canvas, 300)
    assert "kept: step" in text(canvas, "Train") and "other_1.png" in text(canvas, "Mask")
    for name in ("Train", "Mask", "SampleGrid", "Score"):
        centre(canvas, name)
        shown = canvas.evaluate(
            f"""name => {{ const panel = ({PANEL})(name); const box = panel.getBoundingClientRect();
                return [panel.isConnected, panel.scrollWidth - panel.clientWidth, box.width, box.height]; }}""", name
        )
        assert shown[0] and shown[1] <= 1 and shown[2] > 150 and 100 < shown[3] < 400, (name, shown)
    assert canvas.problems == []


def test_rare_inputs_are_out_of_sight_until_they_are_asked_for(canvas):
    load(canvas, QUICKSTART)
    canvas.wait_for_timeout(1000)
    node = "app.graph._nodes.find((n) => n.type === 'Attractor_Train')"
    before = canvas.evaluate(f"() => {node}.computeSize()[1]")
    assert before < 750
    centre(canvas, "Train")
    if canvas.vue:
        number = canvas.evaluate(f"() => {node}.id")
        canvas.locator(f'[data-node-id="{number}"]').get_by_text("Show advanced inputs").click()
        canvas.locator(f'[data-node-id="{number}"]').get_by_text("background_vectors").wait_for(timeout=5000)
    else:
        canvas.locator(".attractor-more:visible").first.wait_for(timeout=5000)
        canvas.evaluate(f"() => {node}.widgets.find((w) => w.name === 'attractor_panel').element"
                        ".querySelector('.attractor-more').click()")  # fmt: skip
    assert canvas.evaluate(f"() => {node}.computeSize()[1]") > before + 200


def test_no_node_of_a_template_covers_another(canvas):
    for name in TEMPLATES:
        load(canvas, json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")), short=False)
        canvas.wait_for_timeout(1500)
        count, found = canvas.evaluate(OVERLAPS)
        assert count > 5 and found == [], name


def test_its_search_finds_the_nodes(canvas):
    for words, name in {"mask": "Attractor Mask", "train": "Train Concept", "concept": "Save Concept"}.items():
        assert any(name in line for line in searched(canvas, words)), words
