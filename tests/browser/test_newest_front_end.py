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
BOXES = """vue => app.graph._nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`); // of a Vue node
    const box = element?.getBoundingClientRect();
    if (vue && !box) throw new Error(`${node.title} is not drawn`);
    const scale = app.canvas.ds.scale;
    const [width, height] = vue ? [box.width / scale, box.height / scale] : node.size;
    const title = vue ? 0 : LiteGraph.NODE_TITLE_HEIGHT;
    const top = vue ? box.top / scale - app.canvas.ds.offset[1] : node.pos[1] - title;
    const left = vue ? box.left / scale - app.canvas.ds.offset[0] : node.pos[0];
    return { name: node.title, left, top, right: left + width, bottom: top + height + title };
})"""
HIDDEN = f"""name => {{ const panel = ({PANEL})(name);
    const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowY);
    const inner = panel.firstChild;
    return [panel.isConnected, panel.scrollWidth - panel.clientWidth,
            scrolls(inner) ? 0 : Math.round(panel.scrollHeight - panel.clientHeight),
            panel.getBoundingClientRect().width, panel.getBoundingClientRect().height]; }}"""


def covered(boxes):
    """Pairs of nodes that lie on one another, by more than a pixel."""
    return [
        f"{a['name']} covers {b['name']}"
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if min(a["right"], b["right"]) - max(a["left"], b["left"]) > 1
        and min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) > 1
    ]


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
        connected, too_wide, too_tall, width, height = canvas.evaluate(HIDDEN, name)
        assert connected and too_wide <= 1 and too_tall <= 1 and width > 150 and 100 < height < 400, name
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
        boxes = canvas.evaluate(BOXES, canvas.vue)
        assert len(boxes) > 5 and covered(boxes) == [], name


def test_its_search_finds_the_nodes(canvas):
    for words, name in {"mask": "Attractor Mask", "train": "Train Concept", "concept": "Save Concept"}.items():
        assert any(name in line for line in searched(canvas, words)), words


def test_the_kind_of_nodes_is_changed_while_a_graph_is_open(canvas):
    """Rare inputs stay hidden, none is drawn on another, and the button for them is where it is needed."""
    load(canvas, QUICKSTART)
    other = not canvas.vue
    change = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    canvas.evaluate(change, other)
    canvas.wait_for_timeout(1500)
    try:
        centre(canvas, "Train")
        if other:
            assert not canvas.locator(".attractor-more:visible").count()
            return
        places = canvas.evaluate(
            """() => { const node = app.graph._nodes.find((n) => n.type === 'Attractor_Train');
                return node.widgets.filter((w) => node.isWidgetVisible(w)).map((w) => w.y); }"""
        )
        assert 10 < len(places) < 16 and len(set(places)) == len(places), places
        canvas.locator(".attractor-more:visible").first.wait_for(timeout=5000)
    finally:
        canvas.evaluate(change, canvas.vue)
        canvas.wait_for_timeout(1000)
