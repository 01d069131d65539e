"""Graphs that are not as they should be, opened in the real front end: what can be loaded is, and the rest is named."""

from __future__ import annotations

import copy
import json

import pytest
from attractor_pack.tools.host import ROOT
from attractor_pack.tools.templates.__main__ import no_first_visit, open_canvas

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def canvas(server, browser):
    no_first_visit(server)
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    return open_canvas(page, server.url)


@pytest.fixture
def graph():
    return json.loads((ROOT / "workflows" / "Quickstart.json").read_text(encoding="utf-8"))


def node(graph, name):
    return next(one for one in graph["nodes"] if one["type"] == f"Attractor_{name}")


def load(page, graph):
    page.evaluate("async graph => { await app.loadGraphData(graph); }", graph)
    page.wait_for_timeout(500)


def refused(page):
    """What the host says is wrong with the graph on the canvas; what it would run all the same is stopped."""
    answer = page.evaluate(
        """async () => { const { output } = await app.graphToPrompt();
            const post = (path, body) => fetch(path, { method: 'POST', body: JSON.stringify(body) });
            const answer = await (await post('/prompt', { prompt: output })).json();
            await post('/queue', { clear: true });
            await post('/interrupt', {});
            return answer; }"""
    )
    assert answer["node_errors"], "taken as if nothing were wrong"
    return json.dumps(answer["node_errors"])


def test_a_graph_without_one_of_its_nodes(canvas, graph):
    load(canvas, graph)
    canvas.evaluate("() => app.graph.remove(app.graph._nodes.find(n => n.type === 'Attractor_Split'))")
    again = canvas.evaluate("() => app.graph.serialize()")
    load(canvas, again)
    assert canvas.evaluate("() => app.graph._nodes.length") == len(graph["nodes"]) - 1
    said = refused(canvas)
    assert "Required input is missing" in said and "train_set" in said
    assert canvas.problems == []


def test_a_value_out_of_range(canvas, graph):
    load(canvas, graph)
    canvas.evaluate(
        """() => { const train = app.graph._nodes.find(n => n.type === 'Attractor_Train');
            train.widgets.find(w => w.name === 'strength').value = 7; }"""
    )
    said = refused(canvas)
    assert "strength" in said and "max" in said


def test_a_model_that_is_not_there(canvas, graph):
    load(canvas, graph)
    canvas.evaluate(
        """() => { const score = app.graph._nodes.find(n => n.type === 'Attractor_Score');
            score.widgets.find(w => w.name === 'image_encoder').value = 'no-such-encoder'; }"""
    )
    said = refused(canvas)
    assert "no-such-encoder" in said and "models/attractor" in said.replace("\\\\", "/") and "demo-clip" in said


def test_a_graph_of_a_newer_version(canvas, graph):
    """It has a node that we do not know and an input more: the rest loads with its values."""
    newer = copy.deepcopy(graph)
    node(newer, "Train")["widgets_values"].append("of a later version")
    newer["nodes"].append({
        "id": 9001, "type": "Attractor_FromTheFuture", "pos": [0, 2000], "size": [200, 80], "flags": {}, "order": 99,
        "mode": 0, "inputs": [], "outputs": [], "properties": {"ver": "9.0.0"}, "widgets_values": [],
    })  # fmt: skip
    load(canvas, newer)
    canvas.wait_for_function("() => document.body.innerText.includes('Attractor_FromTheFuture')")
    canvas.keyboard.press("Escape")
    values = canvas.evaluate(
        """() => app.graph._nodes.find(n => n.type === 'Attractor_Train').widgets
            .filter(w => w.serialize !== false).map(w => w.value)"""
    )
    assert values == node(graph, "Train")["widgets_values"]
    assert canvas.problems == []


def test_a_graph_of_an_older_version(canvas, graph):
    """Inputs that came later stand at their defaults."""
    older = copy.deepcopy(graph)
    node(older, "Train")["widgets_values"] = node(older, "Train")["widgets_values"][:13]
    load(canvas, older)
    prompt = canvas.evaluate("async () => (await app.graphToPrompt()).output")
    inputs = next(one["inputs"] for one in prompt.values() if one["class_type"] == "Attractor_Train")
    assert inputs["steps"] == 300 and inputs["representation"] == "TI" and inputs["ema"] == 0
    assert inputs["schedule"] == "cosine" and inputs["norm"] == "free"
    assert canvas.problems == []
