"""The release gate in the graph, and photos that may not be trained on."""

from __future__ import annotations

import json
import shutil

import pytest
from attractor_pack.metrics.pictures import painted_by, read_pictures
from attractor_pack.studio.forget import search
from attractor_pack.studio.gate import check_decision
from attractor_pack.tools.graphs import main_road, node
from attractor_pack.tools.host import GraphError
from attractor_pack.training import demo_assets
from attractor_pack.training.concept import load_concept
from PIL import Image

pytestmark = pytest.mark.host
SHORT = {"steps": 4, "background_steps": 2, "views": 1}


def road(folder="", **changes):
    return main_road(folder, "cup", training=SHORT, sampler={"steps": 2}, seeds=1, name="gate", **changes)


@pytest.fixture
def photos(server):
    folder = server.base / "input" / "with rights"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(demo_assets.ASSETS / "subject", folder, ignore=shutil.ignore_patterns("masks"))
    yield folder
    shutil.rmtree(folder)


def manifest(folder, **changes):
    told = {"consent": "C-17", "expires": "2099-01-01", "training": "yes"} | changes
    lines = [",".join(("photo", *told)), *(",".join((p.name, *told.values())) for p in sorted(folder.glob("*.png")))]
    (folder / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")


def test_the_gate_decides_by_the_report_and_by_the_rights(server, photos):
    manifest(photos)
    rules = [{"measure": "rights", "at_least": 1}, {"measure": "certificate", "at_least": 1}]
    policy = {"name": "ours", "rules": rules}
    (server.base / "input" / "ours.json").write_text(json.dumps(policy), encoding="utf-8")
    graph = road(str(photos), report="gate")
    for name, how in (("own", {"policy": "own file", "own_policy": "ours.json", "report_name": "gate"}),
                      ("campaign", {"policy": "public-campaign", "own_policy": "", "report_name": ""})):  # fmt: skip
        graph[name] = node("Attractor_ReleaseGate", report=["score", 0], **how)
    run = server.queue(graph)
    assert run.outputs["own"]["text"][0].startswith("PASS by the policy 'ours'")
    assert run.outputs["campaign"]["text"][0].startswith("BLOCK by the policy 'public campaign'")
    assert "people: no study with votes" in run.outputs["campaign"]["text"][0]
    panel = run.outputs["campaign"]["attractor"][0]["verdicts"][0]
    assert panel["grade"] == "block" and {a["grade"] for a in panel["answers"]} == {"pass", "block"}
    record = check_decision(server.base / "output" / "attractor" / "gate" / "decision.json")
    report = json.loads((server.base / "output" / "attractor" / "gate" / "report.json").read_text(encoding="utf-8"))
    assert record["decision"] == "pass" and record["concept_sha256"] == report["concept_sha256"]


@pytest.mark.parametrize(("changes", "says"), [
    ({"expires": "2020-01-01"}, "the consent C-17 expired on 2020-01-01"),
    ({"training": "no"}, "the manifest forbids training"),
])  # fmt: skip
def test_what_may_not_be_trained_on_stops_the_training(server, photos, changes, says):
    manifest(photos, **changes)
    with pytest.raises(GraphError, match=says) as refused:
        server.queue(road(str(photos)))
    assert "manifest.csv" in refused.value.message and refused.value.node == "train"


def test_policies_stay_in_the_input_folder(server, photos):
    graph = road(str(photos))
    wrong = (("../secret.json", "leads out of its folder"), ("", "own_policy is empty"), ("no.json", "no such policy"))
    for file, says in wrong:
        graph["gate"] = node("Attractor_ReleaseGate", report=["score", 0], policy="own file", own_policy=file,
                             report_name="")  # fmt: skip
        with pytest.raises(GraphError, match=says):
            server.queue(graph)


def test_pictures_that_are_kept_say_what_made_them(server):
    """Prompt, seed, concept and its photos in each PNG, with the graph as Save Image writes it; nothing is written
    over, and a deletion finds them.
    """
    kept = server.base / "output" / "attractor" / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    graph = main_road("", "cup", training=SHORT, sampler={"steps": 2}, seeds=1, name="kept")
    graph["grid"]["inputs"]["save_name"] = "kept"
    del graph["score"], graph["base"]
    server.queue(graph)
    again = {**graph, "grid": node("Attractor_SampleGrid", **graph["grid"]["inputs"] | {"first_seed": 40})}
    server.queue(again)
    assert sorted(p.name for p in kept.iterdir()) == ["pictures_0001", "pictures_0002"]
    concept = load_concept(server.base / "models" / "embeddings" / "kept.safetensors")
    seeds = []
    for folder in sorted(kept.iterdir()):
        made = read_pictures(folder, concept)
        for i, item in enumerate(made.items):
            with Image.open(folder / f"{i:04d}.png") as picture:
                card, queued = json.loads(picture.text["attractor"]), json.loads(picture.text["prompt"])
            assert card["run_card"]["train_photos"] and card["concept_sha256"] == concept.sha256
            assert (card["prompt"], card["seed"], card["settings"]["steps"]) == (item.prompt, item.seed, 2)
            assert queued["grid"]["inputs"]["first_seed"] == card["seed"]
        assert painted_by(folder) == concept.sha256 and (folder / "sheet.png").is_file()
        seeds.append({item.seed for item in made.items})
    assert seeds[1] == {40} != seeds[0]
    found = search([concept.run_card["train_photos"][0]], [kept])
    assert {trace.path.parent.name for trace in found.traces} == {"pictures_0001", "pictures_0002"}
    graph["grid"]["inputs"]["save_name"] = "../outside"
    with pytest.raises(GraphError, match="outside"):
        server.queue(graph)
