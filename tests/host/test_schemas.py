"""Graphs that people saved must load: what they rely on may be added to at the end, and else not change."""

import json

import pytest
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
