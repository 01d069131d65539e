"""Sweeps from the graph, and on ComfyUI hosts by their API."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import requests
from attractor_pack.studio.store import Store
from attractor_pack.tools.graphs import node
from attractor_pack.tools.host import GraphError, Host
from attractor_pack.tools.models import link_into
from attractor_pack.tools.studio.catalogue import write_catalogue

pytestmark = [pytest.mark.host, pytest.mark.slow]
PLAN = """
subjects: catalogue
methods: [attractor, plain]
settings: {steps: 4, background_steps: 2, batch_size: 2, resolution: 64, vectors: 2, views: 1}
painting: {seeds: 1, steps: 2, cfg: 3, size: 64}
masking: {backend: none}
image_encoder: demo-clip
together: 2
"""


@pytest.fixture(scope="module")
def catalogue(server):
    return write_catalogue(server.base / "input" / "catalogue", 2, prompts=2)


def graph(name, **changes):
    sweep = {"plan": PLAN, "store_name": name, **changes}
    return {
        "sweep": node("Attractor_Sweep", **sweep),
        "compare": node("Attractor_Compare", report_a=["sweep", 1], report_b=["sweep", 0], names="plain\nattractor",
                        report_name=""),
    }  # fmt: skip


def workers():
    return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and "standalone.py" in " ".join(
        p.info["cmdline"])]  # fmt: skip


def test_a_sweep_in_the_graph_is_cancelled_goes_on_and_is_compared_product_by_product(server, catalogue):
    run = None

    def cancel():
        for _ in range(900):
            if list((server.base / "output" / "attractor" / "sweeps" / "mine" / "store" / "runs").glob("*.json")):
                break
            time.sleep(0.1)
        server.interrupt()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(GraphError):
        server.queue(graph("mine"))
    thread.join()
    assert not workers(), "Cancel left the sweep running"
    store = server.base / "output" / "attractor" / "sweeps" / "mine" / "store"
    kept = {p: p.stat().st_mtime_ns for p in (store / "runs").glob("*.json")}
    assert kept
    run = server.queue(graph("mine"))
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items()), "what was there was done again"
    assert len(list(Store(str(store)).keys("runs"))) == 4
    text = run.outputs["sweep"]["text"][0]
    assert text.startswith("2 subjects: item-00, item-01") and "plain less attractor" in text
    assert len(run.outputs["sweep"]["attractor"][0]["verdicts"]) == 4
    assert len(run.outputs["compare"]["text"]) == 2, "one comparison for each product"
    assert all("differences to plain" in one for one in run.outputs["compare"]["text"])


def test_runs_that_failed_are_tried_again_when_it_is_queued_again(server):
    """One product's photos are damaged; mended with the same size and time, the graph itself has not changed."""
    folder = write_catalogue(server.base / "input" / "mended", 2, prompts=2)
    photo = sorted((folder / "item-01").rglob("00.png"))[0]
    whole, then = photo.read_bytes(), photo.stat()
    photo.write_bytes(whole[:100] + bytes(len(whole) - 100))
    os.utime(photo, ns=(then.st_atime_ns, then.st_mtime_ns))
    asked = {"sweep": graph("mended", plan=PLAN.replace("catalogue", "mended"))["sweep"]}
    first = server.queue(asked)
    assert "item-01" in first.outputs["sweep"]["text"][0]
    assert len(first.outputs["sweep"]["attractor"][0]["verdicts"]) == 2
    photo.write_bytes(whole)
    os.utime(photo, ns=(then.st_atime_ns, then.st_mtime_ns))
    second = server.queue(asked)
    assert len(second.outputs["sweep"]["attractor"][0]["verdicts"]) == 4


@pytest.mark.parametrize(("changes", "says"), [
    ({"plan": "subjects: catalogue\nfoo: 1"}, "'foo' is not known"),
    ({"plan": "subjects: catalogue\nmodel: ../secret.safetensors"}, "no such file in models/checkpoints"),
    ({"store_name": "../elsewhere"}, "elsewhere"),
    ({"plan": "subjects: nowhere"}, "no such folder"),
    ({"address": "127.0.0.1:9"}, "no Ray cluster answers there"),
    ({"hosts": "http://127.0.0.1:9"}, "no ComfyUI answers there"),
    ({"hosts": "http://localhost:9,http://elsewhere.example:8188"}, "photos would be sent to elsewhere.example"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_the_node(server, catalogue, changes, says):
    with pytest.raises(GraphError, match=says) as refused:
        server.queue(graph("wrong", **changes))
    assert "Traceback" not in refused.value.message and not workers()


def test_the_same_plan_runs_on_comfyui_hosts(server, catalogue, tmp_path):
    plan, store = tmp_path / "plan.yaml", tmp_path / "store"
    plan.write_text(PLAN.replace("catalogue", str(catalogue)), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "attractor_pack.cli.main", "sweep", str(plan), "--store", str(store),
               "--json", str(tmp_path / "sweep.json"), "--hosts", server.url]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert found["counts"]["done"] == 4 and found["rows"] and found["runs"][0]["worker"] == server.url
    kept = Store(str(store))
    record = kept.record("runs", found["runs"][0]["key"])
    report = json.loads(kept.file(record, "report.json"))
    assert report["concept_sha256"] and {"0000.png", "0001.png", "0002.png"} < set(record["files"])
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "2 of 2 are there already" in again.stderr


def test_a_host_that_is_killed_and_comes_back_empty_is_given_its_work_again(tmp_path, catalogue):
    """Killed while a graph runs, and started anew at the same address without the photos that were sent before."""
    base, plan, store = tmp_path / "host", tmp_path / "plan.yaml", tmp_path / "store"
    link_into(base)
    plan.write_text(PLAN.replace("catalogue", str(catalogue)), encoding="utf-8")
    host = Host(base)
    try:
        host.start()
        command = [sys.executable, "-P", "-m", "attractor_pack.cli.main", "sweep", str(plan), "--store", str(store),
                   "--hosts", host.url]  # fmt: skip
        sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ends = time.monotonic() + 120
        while not requests.get(f"{host.url}/queue", timeout=30).json()["queue_running"]:
            assert sweep.poll() is None and time.monotonic() < ends, "no graph was sent"
            time.sleep(0.05)
        os.killpg(host.pid, signal.SIGKILL)
        shutil.rmtree(base / "input")
        host.start(port=host.port)
        said = sweep.communicate(timeout=300)[1]
        assert sweep.returncode == 0, said
        keys = list(Store(str(store)).keys("runs"))
        assert len(keys) == 4 and all("report.json" in Store(str(store)).record("runs", k)["files"] for k in keys)
    finally:
        host.stop()
