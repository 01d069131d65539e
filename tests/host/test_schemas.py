"""Graphs that people saved must load: what they rely on may be added to at the end, and else not change."""

import json

import pytest
import requests
from attractor_pack.tools.footprint import import_cost
from attractor_pack.tools.locales import LANGUAGES, read, texts
from attractor_pack.tools.schemas import FILE, schemas

pytestmark = pytest.mark.host


def test_saved_graphs_still_fit_the_nodes(server):
    known, now = json.loads(FILE.read_text(encoding="utf-8")), schemas(server.object_info())
    assert set(known) <= set(now), "a node is gone"
    for name, before in known.items():
        after = now[name]
        assert after["outputs"][: len(before["outputs"])] == before["outputs"], name
        assert after["output_node"] == before["output_node"], name
        for kind in ("required", "optional"):
            was, is_ = ([i for i in one["inputs"] if i["kind"] == kind] for one in (before, after))
            assert is_[: len(was)] == was, f"{name}: {kind} inputs"
        required = [[i["name"] for i in one["inputs"] if i["kind"] == "required"] for one in (before, after)]
        assert required[0] == required[1], f"{name}: a new input must be optional"
    assert now == known, "run python -m attractor_pack.tools.schemas, so that what was added is kept too"


def test_every_text_of_every_node_is_there_in_every_language(server):
    now = texts(server.object_info())
    assert read("en") == now, "run python -m attractor_pack.tools.locales"
    for language in LANGUAGES:
        assert shape(read(language)) == shape(now), f"locales/{language}/nodeDefs.json: what is missing or left over"
        assert all_texts(read(language)) and "" not in all_texts(read(language)), "a tooltip is empty"
    for language in LANGUAGES[1:]:
        same = [t for t in set(all_texts(read(language))) & set(all_texts(now)) if len(t.split()) > 2]
        assert same == [], f"{language}: not translated"


def test_the_front_end_is_given_all_languages(server):
    given = requests.get(f"{server.url}/i18n", timeout=10).json()
    for language in LANGUAGES:
        assert given[language]["nodeDefs"]["Attractor_Train"] == read(language)["Attractor_Train"]
        assert given[language]["nodeCategories"]["attractor"]
        assert given[language]["settings"]["Attractor_Panels"]["name"]


def shape(tree):
    return {key: shape(value) for key, value in tree.items()} if isinstance(tree, dict) else None


def all_texts(tree):
    return [t for v in tree.values() for t in all_texts(v)] if isinstance(tree, dict) else [tree]


def test_the_pack_costs_the_host_s_start_nothing_heavy():
    came = set(import_cost()["packages"])
    heavy = {"matplotlib", "jinja2", "diffusers", "transformers", "open_clip", "timm", "onnxruntime"}
    assert "attractor_probe" in came and not came & heavy
