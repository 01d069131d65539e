"""Sweeps on real Ray processes: the same concepts on one process and on several machines, whatever dies on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.cli.main import main as attractor
from attractor_pack.studio import work
from attractor_pack.studio.cluster import OverRay
from attractor_pack.studio.forget import forget, hashes_of, search
from attractor_pack.studio.gate import digest
from attractor_pack.studio.pilot import Prices, pilot
from attractor_pack.studio.pilot_page import headline, write_pilot
from attractor_pack.studio.plan import plan_from
from attractor_pack.studio.sets import find_subjects
from attractor_pack.studio.store import Store
from attractor_pack.studio.summary import summary
from attractor_pack.studio.sweep import InProcess, Sweep, parcel_of
from attractor_pack.studio.work import PREPARED, PREPARED_OF
from attractor_pack.tools.studio.catalogue import write_catalogue
from attractor_pack.training.concept import load_concept
from PIL import Image
from safetensors import safe_open

PLAN = """
subjects: catalogue
methods: [attractor, plain]
settings: {steps: 4, background_steps: 2, batch_size: 2, resolution: 64, vectors: 2, views: 1}
seeds: [0, 1]
painting: {seeds: 1, steps: 2, cfg: 3, size: 64}
masking: {backend: none}
image_encoder: demo-clip
together: 2
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two subjects, and a third with a photo that is cut short."""
    folder = tmp_path_factory.mktemp("studio")
    photo = write_catalogue(folder / "catalogue", 3, prompts=1) / "item-01" / "train" / "02.png"
    photo.write_bytes(photo.read_bytes()[:200])
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    return folder / "plan.yaml"


@pytest.fixture(scope="module")
def alone(plan, tmp_path_factory):
    """The plan in one process."""
    store = Store(str(tmp_path_factory.mktemp("alone")))
    sweep = Sweep(plan_from(PLAN, "plan.yaml", plan.parent), store, InProcess())
    sweep.run()
    return sweep


def concepts(store, keys, tmp_path):
    found = {}
    for key in keys:
        path = tmp_path / f"{key[:12]}.safetensors"
        path.write_bytes(store.file(store.record("runs", key), "concept.safetensors"))
        found[key] = load_concept(path).sha256
    return found


def done(sweep):
    return [run.key for run in sweep.runs if run.record]


@pytest.mark.slow
def test_a_poisoned_subject_fails_alone_with_its_reason(alone):
    result = summary(alone)
    assert result["counts"]["done"] == 8 and result["counts"]["failed"] == 4 and len(result["subjects"]) == 2
    assert {row["subject"] for row in result["failed"]} == {"item-01"}
    assert all("02.png: the image is damaged or cut short" in row["why"] for row in result["failed"])
    names = [row["name"] for row in result["rows"]]
    assert any("held-out" in name for name in names) and result["rows"][0]["differences"][0]["units"] == 2
    run = next(run for run in alone.runs if run.record)
    report = json.loads(alone.store.file(run.record, "report.json"))
    assert report["split_certificate"] is None and len(report["held_out_photos"]) == 4
    path = alone.store.file_path(run.record, "0000.png")
    made = json.loads(Image.open(path).text["attractor"])
    assert made["concept_sha256"] == report["concept_sha256"] and made["run_card"] == report["run_card"]


class Mover:
    """Takes the store away as soon as a run is in it."""

    def __init__(self, store):
        self._store = store

    def changed(self, sweep, run, note):
        if run is not None and run.state == "done" and self._store.exists():
            self._store.rename(self._store.with_name("elsewhere"))


@pytest.mark.slow
def test_a_store_that_goes_away_half_way_ends_the_sweep_and_keeps_what_it_has(alone, tmp_path):
    store = tmp_path / "store"
    plan = replace(alone.plan, methods={"plain": alone.plan.methods["plain"]}, together=1)
    sweep = Sweep(plan, Store(str(store)), InProcess(), Mover(store))
    with pytest.raises(AttractorError, match="the store is gone"):
        sweep.run()
    assert sweep.counts["done"] == 1 and not store.exists()
    kept = Store(str(tmp_path / "elsewhere"))
    assert [kept.has("runs", run.key) for run in sweep.runs if run.state == "done"] == [True]


class Killer:
    """Kills a worker in the middle of a task, once."""

    def __init__(self):
        self.killed, self.ended = None, []

    def changed(self, sweep, run, note):
        if run is not None and run.state == "done":
            self.ended.append(run.key)
        if self.killed is None and self.ended:
            ours = psutil.Process().children(recursive=True)
            busy = [p for p in ours if p.is_running() and p.cmdline()[:1] and p.cmdline()[0].startswith("ray::call")]
            if busy:
                self.killed = busy[0].pid
                os.kill(self.killed, signal.SIGKILL)


@pytest.mark.slow
def test_two_machines_give_the_same_bits_though_a_worker_is_killed(plan, alone, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        killer, store = Killer(), Store(str(tmp_path / "store"))
        with OverRay(cluster.address) as ray:
            assert ray.slots == 2
            sweep = Sweep(alone.plan, store, ray, killer)
            sweep.run()
    finally:
        cluster.shutdown()
    assert killer.killed, "no worker was killed: the test shows nothing"
    assert sorted(killer.ended) == sorted(done(alone)), "a run was lost, or counted twice"
    workers = {store.record("runs", key)["worker"] for key in done(sweep)}
    assert len(workers) >= 2
    assert concepts(store, done(sweep), tmp_path) == concepts(alone.store, done(alone), tmp_path)
    for key in done(sweep):
        ours, theirs = (json.loads(s.file(s.record("runs", key), "report.json")) for s in (store, alone.store))
        assert ours["scores"] == theirs["scores"]


@pytest.mark.slow
def test_every_link_from_photo_to_decision_is_walked_both_ways_from_the_store_alone(alone, tmp_path):
    root = Path(alone.store.path(""))
    records = {kind: [json.loads(p.read_text()) for p in (root / kind).glob("*.json")] for kind in ("subjects", "runs")}

    def blob(record, name):
        return Path(alone.store.file_path(record, name))

    photo = hashes_of([str(alone.folders[0].path / "train" / "00.png")])[0]

    subject = next(r for r in records["subjects"] if photo in r["photos"])
    with safe_open(blob(subject, PREPARED), "pt") as file:
        assert photo in json.loads(file.metadata()[PREPARED_OF])
        masks = [key for key in file.keys() if key.startswith("mask/")]
    assert len(masks) == len(subject["info"]["train"])
    run = next(r for r in records["runs"] if r["subject_key"] == subject["key"])
    concept = load_concept(blob(run, "concept.safetensors"))
    assert photo in concept.run_card["train_photos"]
    made = json.loads(Image.open(blob(run, "0001.png")).text["attractor"])
    report = json.loads(blob(run, "report.json").read_text())
    assert made["concept_sha256"] == report["concept_sha256"] == concept.sha256
    assert (report["pictures"][1]["prompt"], report["pictures"][1]["seed"]) == (made["prompt"], made["seed"])
    attractor(["gate", str(blob(run, "report.json")), "--policy", "internal-draft", "--out", str(tmp_path / "d.json")])
    decision = json.loads((tmp_path / "d.json").read_text())

    assert decision["report_sha256"] == digest(report) and photo in decision["train_photos"]
    back = next(r for r in records["runs"] if digest(json.loads(blob(r, "report.json").read_text()))
                == decision["report_sha256"])  # fmt: skip
    painted_by = json.loads(Image.open(blob(back, "0000.png")).text["attractor"])["concept_sha256"]
    assert load_concept(blob(back, "concept.safetensors")).sha256 == painted_by == decision["concept_sha256"]
    origin = next(r for r in records["subjects"] if r["key"] == back["subject_key"])
    on_disk = {hashes_of([str(p)])[0] for f in alone.folders for p in f.path.glob("*/*.png")}
    assert set(decision["train_photos"]) <= set(origin["photos"]) <= on_disk


@pytest.mark.slow
def test_a_photo_that_is_forgotten_takes_its_results_along_and_no_others(alone, plan, tmp_path):
    shutil.copytree(alone.store.path(""), tmp_path / "store")
    photo = plan.parent / "catalogue" / "item-00" / "train" / "01.png"
    mine = [run.record for run in alone.runs if run.subject == "item-00"]
    loose = tmp_path / "store" / "kept.png"
    shutil.copy(alone.store.file_path(mine[0], "0000.png"), loose)
    found = search(hashes_of([str(photo)]), [tmp_path / "store"])
    forget(found, tmp_path / "receipt.json")
    left = Store(str(tmp_path / "store"))
    assert not loose.exists()
    for record in mine:
        assert left.record("runs", record["key"]) is None
        assert not [blob for blob in record["files"].values() if list(tmp_path.glob(f"store/blobs/*/{blob}"))]
    others = [run.record for run in alone.runs if run.subject == "item-02"]
    assert all(left.file(left.record("runs", r["key"]), name) for r in others for name in r["files"])
    assert len(list(left.keys("subjects"))) == 1
    again = Sweep(alone.plan, left, InProcess())
    next(again._read_subjects())
    assert again.counts["waiting"] == 12, "of item-00 all is to be done again"


@pytest.mark.slow
def test_a_pilot_says_what_it_costs_and_shows_what_failed(alone, tmp_path):
    """On what the sweep left: nothing is trained again."""
    sweep = Sweep(replace(alone.plan, methods={"attractor": {}}, seeds=(0,)), alone.store, InProcess())
    sweep.run()
    assert sweep.counts["stored"] == 2 and sweep.counts["failed"] == 1
    prices = Prices(machine_hour=7.2, shoot=100.0, photos_per_shoot=5, review=0.5, photos=3.0, setup=900.0)
    found = pilot(sweep, prices)
    assert [p.name for p in found.products if p.failed] == ["item-01"] and found.products[1].cost == 103.0
    assert found.product.value == pytest.approx(sum(p.cost for p in found.products) / 3)
    for run in sweep.runs:
        if run.record is not None:
            assert run.record["at_once"] == 1 == found.tasks
            run.record["at_once"] = 6
    dear, cheap = found.products[0].cost, pilot(sweep, prices).products[0].cost
    assert cheap < dear, "six ran beside one another when they were made, on one machine"
    data, page = write_pilot(found, sweep, tmp_path)
    html = page.read_text(encoding="utf-8")
    assert "02.png: the image is damaged" in html and html.count('class="product"') == 3 and headline(found) in html
    assert found.prompts and "not checked" not in headline(found)
    assert "not checked: no text encoder" in headline(replace(found, prompts=False))
    assert json.loads(data.read_text(encoding="utf-8"))["prices"]["shoot"] == 100.0
    photo = alone.folders[0].path / "train" / "00.png"
    traces = search(hashes_of([str(photo)]), [tmp_path]).traces
    assert {f.name for trace in traces for f in trace.files} == {"pilot.json", "pilot.html"}


def _hears_interrupts():
    """As in a terminal; what runs in a shell's background is started with interrupts ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(plan, store):
    return subprocess.Popen([sys.executable, "-P", "-m", "attractor_pack.cli.main", "sweep", str(plan), "--store",
                             str(store), "--json", str(store) + f"{time.monotonic_ns()}.json"],
                            stderr=subprocess.PIPE, text=True, preexec_fn=_hears_interrupts)  # fmt: skip


def wait_for(store, count, process):
    for _ in range(1200):
        found = list((store / "runs").glob("*.json"))
        if len(found) >= count:
            return found
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no result came in two minutes")


def _waits_for_its_raylet(process):
    """Ray's own two agents look for their parent now and then, and go within two minutes."""
    try:
        return "Agent" in process.name()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_and_two_at_once_share_a_store_though_one_is_killed(plan, alone, tmp_path):
    store = tmp_path / "store"
    first = start(plan, store)
    wait_for(store, 1, first)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 1 and "of 12 runs are in" in said and "Traceback" not in said, said
    kept = {p: p.stat().st_mtime_ns for p in (store / "runs").glob("*.json")}
    second, third = start(plan, store), start(plan, store)
    wait_for(store, len(kept) + 1, second)
    family = psutil.Process(second.pid).children(recursive=True)
    workers = [p for p in family if "ray::" in p.name() or "raylet" in p.name()]
    second.kill()
    second.wait()
    kept |= {p: p.stat().st_mtime_ns for p in (store / "runs").glob("*.json")}
    assert workers and len(kept) < 8, "the sweep was done before it was killed: the test shows nothing"
    said = third.communicate(timeout=300)[1]
    assert third.returncode == 1 and "4 of 12 runs failed, the first with: item-01: " in said, said
    _, left = psutil.wait_procs([p for p in workers if not _waits_for_its_raylet(p)], timeout=20)
    assert not left, f"outlived their driver: {left}"
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items()), "what was there was done again"
    found = Store(str(store))
    assert sorted(found.keys("runs")) == sorted(done(alone))
    assert concepts(found, done(alone), tmp_path) == concepts(alone.store, done(alone), tmp_path)


CHANGES = {
    "another photo": lambda plan, folder: (plan, (folder / "train" / "00.png").write_bytes(b"other"))[0],
    "a manifest, however it is spelt": lambda plan, folder: (plan, (folder / "train" / "Manifest.CSV").write_text(
        "photo,training\n00.png,no"))[0],
    "another class word": lambda plan, folder: (plan, (folder / "class.txt").write_text("jug"))[0],
    "other prompts": lambda plan, folder: (plan, (folder / "prompts.txt").write_text("one <subject>"))[0],
    "another encoder": lambda plan, _: replace(plan, image_encoder="efficientnet-lite0"),
    "a text encoder": lambda plan, _: replace(plan, text_encoder="demo-clip"),
    "masks": lambda plan, _: replace(plan, masking=replace(plan.masking, backend="saliency")),
    "painting": lambda plan, _: replace(plan, painting=replace(plan.painting, cfg=4.0)),
    "threads": lambda plan, _: replace(plan, cpus=2),
    "the split": lambda plan, _: replace(plan, split_seed=1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_is_not_taken_for_another_ones(plan, tmp_path, change):
    """Whatever a result follows from is in its key."""
    shutil.copytree(plan.parent / "catalogue" / "item-00", tmp_path / "set" / "item-00")
    made = replace(plan_from(PLAN, "plan.yaml", plan.parent), subjects=str(tmp_path / "set"))

    def key(of):
        return parcel_of(find_subjects(tmp_path / "set")[0], of, InProcess().stamps(of)).key

    before = key(made)
    assert key(made) == before
    assert key(CHANGES[change](made, tmp_path / "set" / "item-00")) != before


def test_one_subject_without_prompts_does_not_stop_the_others(plan, tmp_path):
    shutil.copytree(plan.parent / "catalogue", tmp_path / "catalogue")
    (tmp_path / "catalogue" / "item-00" / "prompts.txt").write_text("a cup on the moon", encoding="utf-8")
    (tmp_path / "catalogue" / "item-02" / "class.txt").write_bytes(b"\xff\xfe\x00")
    sweep = Sweep(plan_from(PLAN, "plan.yaml", tmp_path), Store(str(tmp_path / "store")), InProcess())
    reading = sweep._read_subjects()
    assert [next(reading) for _ in range(3)] == ["item-00", "item-01", "item-02"]
    why = {run.subject: run.reason for run in sweep.runs if run.state == "failed"}
    assert "has no <subject> in it" in why["item-00"] and "cannot be read as UTF-8" in why["item-02"]
    assert sweep.counts["waiting"] == 4


def test_a_cluster_that_does_not_answer_is_said_at_once():
    began = time.monotonic()
    for address, why in (("127.0.0.1:9", "no Ray cluster answers there"), ("nowhere", "write host:port")):
        with pytest.raises(AttractorError, match=why):
            OverRay(address)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("without", "says"), [
    ("diffusers", "run 'pip install diffusers accelerate'"), ("ray", "run 'pip install ray diffusers accelerate'"),
])  # fmt: skip
def test_what_a_sweep_needs_is_said_before_anything_starts(plan, tmp_path, without, says):
    """In a Python that does not find the package."""
    hidden = f"""if True:
        import sys
        from importlib.machinery import PathFinder
        find = PathFinder.find_spec
        PathFinder.find_spec = lambda name, *more: None if name.split(".")[0] == {without!r} else find(name, *more)
        from attractor_pack.cli.main import main
        raise SystemExit(main(sys.argv[1:]))"""
    command = [sys.executable, "-P", "-c", hidden, "sweep", str(plan), "--store", str(tmp_path / "store")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and says in ended.stderr and "Traceback" not in ended.stderr
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_worker_with_another_pack_or_model_does_nothing(plan):
    made = plan_from(PLAN, "plan.yaml", plan.parent)
    stamps = work.stamps_of(made)
    for what, wanted in (("the pack", "9.9.9"), ("the base model", "0" * 64)):
        found = work.perform(made.as_dict(), stamps | {what: wanted}, [], [], [{"key": "k"}])
        assert f"has another version of {what}" in found[0]["error"] and wanted[:12] in found[0]["error"]


def test_a_set_without_subjects_and_a_store_that_is_a_file_are_refused(tmp_path):
    (tmp_path / "catalogue").mkdir()
    with pytest.raises(AttractorError, match="no folder in it holds photos"):
        Sweep(plan_from(PLAN, "plan.yaml", tmp_path), Store(str(tmp_path / "store")), InProcess())
    (tmp_path / "file").write_text("")
    with pytest.raises(AttractorError, match="cannot be made a store"):
        Store(str(tmp_path / "file"))
