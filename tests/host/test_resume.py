"""A training that was stopped goes on with the numbers that it would have had if it had never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.tools.host import GraphError, Host, HostError
from attractor_pack.tools.models import link_into
from attractor_pack.training.concept import load_concept
from attractor_pack.training.loop import train
from attractor_pack.training.resume import RunFolder
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.watcher import Silent
from safetensors import safe_open

pytestmark = pytest.mark.host

SHORT = TrainSettings(steps=14, background_steps=8, vectors=2, views=2, resolution=64, batch_size=2)


class Stop(Exception):
    pass


class StopAt(Silent):
    """Raises at a moment: ("step", n), ("measured", n) or ("preview", n), counted over the whole training."""

    def __init__(self, *moments):
        self.moments, self.seen, self.steps = set(moments), {"step": 0, "measured": 0, "preview": 0}, 0

    def _meet(self, what):
        self.seen[what] += 1
        if (what, self.seen[what]) in self.moments:
            raise Stop

    def step(self, done, total, value, phase):
        self.steps += 1
        self._meet("step")

    def measured(self, history):
        self._meet("measured")

    def preview(self, done, concept):
        self._meet("preview")


def folder(tmp_path, model, photos, settings, seconds=1e9):
    return RunFolder.of(tmp_path, model, photos[0], settings, photos[1], seconds)


@pytest.mark.parametrize(
    "settings",
    [SHORT, replace(SHORT, representation="XTI", background_scope="per photo"),
     replace(SHORT, representation="NeTI", steps=8, background_steps=4), replace(SHORT, background_steps=0),
     replace(SHORT, schedule="constant", ema=0.9, min_snr=5.0, timestep_sampling="toward noise", colour=0.3,
             background_change="swap", keeps_context=0.1, views=3)],
    ids=["TI", "XTI per photo", "NeTI", "together", "all options"],
)  # fmt: skip
def test_stopped_at_any_moment(model, photos, settings, tmp_path):
    """Cancelled again and again, in both phases, while measuring and while painting a preview."""
    whole, history = train(model, photos[0], settings, photos[1])
    moments = [("step", 3), ("measured", 2), ("step", 4), ("preview", 1), ("step", 1)]
    stops, taken = 0, 0
    for moment in [*moments, None]:
        watcher = StopAt(*([moment] if moment else []))
        runs = folder(tmp_path, model, photos, settings)
        try:
            found, resumed = train(model, photos[0], settings, photos[1], watcher, 5, runs)
            taken += watcher.steps
            break
        except Stop:
            stops += 1
            taken += watcher.steps
            assert (runs.path / "state.pt").is_file()
    assert stops >= 3
    assert found.sha256 == whole.sha256
    assert resumed == history
    assert taken <= len(history.losses) + stops, "it did not go on, it began again"
    assert not (runs.path / "state.pt").exists()
    kept = json.loads((runs.path / "config.json").read_text(encoding="utf-8"))
    assert kept["best_step"] == history.best_step and "seconds" in kept
    assert events(runs.path, "loss/step") == history.losses
    assert events(runs.path, "loss/held_out") == history.held_out
    lines = (runs.path / "curve.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(history.losses) + 1 and lines[0] == "step,loss,background,train,held_out"


def events(folder, name):
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [(e.step, pytest.approx(e.value, rel=1e-6)) for e in sorted(reader.Scalars(name), key=lambda e: e.step)]


def test_states_are_written_on_the_way(model, photos, tmp_path):
    """A process that is killed leaves the last state behind, and no half-written one."""
    runs, seen = folder(tmp_path, model, photos, SHORT, seconds=0), []

    class Look(Silent):
        def step(self, done, total, value, phase):
            seen.append(sorted(p.name for p in runs.path.iterdir()))
            if done == 15:
                os.link(runs.path / "state.pt", tmp_path / "state.pt")

    whole, _ = train(model, photos[0], SHORT, photos[1], Look(), 0, runs)
    ours = [[n for n in names if not n.startswith("events.")] for names in seen]
    assert all(names == ["config.json", "curve.csv", "state.pt"] for names in ours)
    assert len([p for p in runs.path.iterdir() if p.name.startswith("events.")]) == 1
    assert not [t for t in threading.enumerate() if "_AsyncWriter" in type(t).__name__], "a writer was left running"
    os.rename(tmp_path / "state.pt", runs.path / "state.pt")  # what a kill at step 15 would have left
    watcher = StopAt()
    found, _ = train(model, photos[0], SHORT, photos[1], watcher, 0, folder(tmp_path, model, photos, SHORT))
    assert found.sha256 == whole.sha256 and watcher.steps < 10


@pytest.mark.parametrize("damage", ["cut short", "a pickle", "empty"])
def test_a_damaged_state_is_left_alone(model, photos, tmp_path, damage, caplog):
    settings = replace(SHORT, steps=4, background_steps=2)
    runs = folder(tmp_path, model, photos, settings)
    with pytest.raises(Stop):
        train(model, photos[0], settings, photos[1], StopAt(("step", 3)), 0, runs)
    state = runs.path / "state.pt"
    if damage == "a pickle":
        torch.save({"phase": Evil()}, state)
    else:
        state.write_bytes(b"" if damage == "empty" else state.read_bytes()[:2000])
    found, _ = train(model, photos[0], settings, photos[1], None, 0, folder(tmp_path, model, photos, settings))
    assert found.sha256 == train(model, photos[0], settings, photos[1])[0].sha256
    assert "starts anew" in caplog.text and not os.path.exists(Evil.path)


class Evil:
    path = "/tmp/attractor-was-run"

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_another_training_has_another_folder(model, photos, tmp_path):
    first = folder(tmp_path, model, photos, SHORT)
    wider = photos[0].photos[0].mask.clamp(min=0.1)
    masked = photos[0].with_photos([replace(photos[0].photos[0], mask=wider), *photos[0].photos[1:]])
    patched = model.patcher.clone()
    key = next(k for k in patched.model.state_dict() if k.endswith("attn2.to_k.weight"))
    patched.add_patches({key: ("diff", (torch.ones_like(patched.model.state_dict()[key]),))}, 0.5)
    others = [
        folder(tmp_path, model, photos, replace(SHORT, seed=1)), folder(tmp_path, model, (masked, photos[1]), SHORT),
        folder(tmp_path, model, (photos[0], None), SHORT), folder(tmp_path, model, photos[::-1], SHORT),
        *(folder(tmp_path, one, photos, SHORT) for one in changed_by_nodes(model)),
        folder(tmp_path, type(model)(patched, model.clip, model.vae), photos, SHORT),
    ]  # fmt: skip
    assert len({first.path, *(one.path for one in others)}) == 10
    assert folder(tmp_path, model, photos, SHORT).path == first.path
    again = [folder(tmp_path, one, photos, SHORT).path for one in changed_by_nodes(model)]
    assert again == [one.path for one in others[4:8]], "the same nodes make another model each time"


def changed_by_nodes(model):
    """What stock nodes make of a model: each is another one to a concept."""
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    clip = model.clip.clone()
    clip.clip_layer(-2)
    freed = FreeU_V2.execute if hasattr(FreeU_V2, "execute") else FreeU_V2().patch
    patched = [
        ModelSamplingDiscrete().patch(model.patcher, "v_prediction", True)[0],
        *(freed(model.patcher, b1=strength, b2=1.4, s1=0.9, s2=0.2)[0] for strength in (1.3, 1.2)),
    ]  # fmt: skip
    return [type(model)(model.patcher, clip, model.vae), *(type(model)(p, model.clip, model.vae) for p in patched)]


def test_it_can_be_cancelled_while_photos_are_encoded(model, photos, tmp_path):
    """Batch after batch, and nothing but a batch of pictures is held."""
    told = []

    class Leave(Silent):
        def encoding(self, done, total):
            told.append((done, total))
            if done == 8:
                raise Stop

    with pytest.raises(Stop):
        train(model, photos[0], replace(SHORT, views=6), photos[1], Leave(), 0, folder(tmp_path, model, photos, SHORT))
    assert told == [(0, 18), (8, 18)]


def test_a_folder_that_cannot_be_written_stops_nothing(model, photos, tmp_path, caplog):
    settings = replace(SHORT, steps=4, background_steps=2)
    (tmp_path / "file").write_text("in the way")
    runs = RunFolder.of(tmp_path / "file", model, photos[0], settings, photos[1], 0)
    found, _ = train(model, photos[0], settings, photos[1], None, 0, runs)
    assert found.sha256 == train(model, photos[0], settings, photos[1])[0].sha256
    assert caplog.text.count("cannot be resumed") == 1


def test_a_loss_that_is_no_number_keeps_nothing(model, photos, tmp_path):
    settings = replace(SHORT, steps=8, background_steps=0, learning_rate=10.0, background_scope="none")
    runs, original = folder(tmp_path, model, photos, settings), model.denoise
    steps = iter(range(10_000))  # of training: measuring asks for no gradient
    model.denoise = lambda *given: original(*given) * (
        float("nan") if torch.is_grad_enabled() and next(steps) == 1 else 1
    )
    try:
        with pytest.raises(AttractorError, match=r"loss became nan at step 2 of the subject.*learning_rate"):
            train(model, photos[0], settings, None, None, 0, runs)
    finally:
        del model.denoise
    assert not (runs.path / "state.pt").exists()


@pytest.fixture
def own_server(tmp_path):
    base = tmp_path / "host"
    base.mkdir()
    link_into(base)
    host = Host(base)
    yield host
    host.stop()


def _graph(name, **changes):
    demo = {"model": ["demo", 0], "clip": ["demo", 1], "vae": ["demo", 2]}
    settings = {**TRAINING, "steps": 220, "background_steps": 60, "views": 2, **changes}
    return {
        "demo": node("Attractor_LoadDemo"),
        "train": node("Attractor_Train", **demo, train_set=["demo", 3], **settings),
        "save": node("Attractor_SaveConcept", concept=["train", 0], name=name, when_exists="overwrite"),
    }


@pytest.mark.slow
def test_a_killed_server_goes_on_where_it_was(own_server):
    """SIGKILL at random moments of the training, then the same graph again: bit for bit the same embedding.

    ATTRACTOR_TEST_KILLS: how often. Each kill comes some moments after a new state was kept, however fast the machine.
    """
    kills, moments, went_on = int(os.environ.get("ATTRACTOR_TEST_KILLS", "1")), random.Random(5), [0]
    steps = 130 * kills
    runs = own_server.base / "output" / "attractor" / "runs"
    own_server.start()
    for _ in range(kills):
        watch = _Progress(steps + 60, kill_after=moments.uniform(0, 2), pid=own_server.pid, runs=runs)
        with pytest.raises((HostError, GraphError)):
            own_server.queue(_graph("killed", steps=steps), on_event=watch)
        went_on.append(watch.first)
        own_server.stop()
        own_server.start()
    watch = _Progress(steps + 60)
    own_server.queue(_graph("killed", steps=steps), on_event=watch)
    went_on.append(watch.first)
    print(f"first steps that the page was told of: {went_on[1:]}")
    assert went_on[1] <= 2 and went_on[1:] == sorted(set(went_on[1:])), f"it began again: {went_on}"
    own_server.queue(_graph("whole", steps=steps, preview_every=10**4))  # never stopped; a setting differs
    paths = [own_server.base / "models" / "embeddings" / f"{name}.safetensors" for name in ("killed", "whole")]
    assert load_concept(paths[0]).sha256 == load_concept(paths[1]).sha256
    with safe_open(paths[0], framework="pt") as file:
        assert torch.isfinite(file.get_tensor("killed")).all()
    (kept,) = runs.iterdir()  # previews are no part of what a training follows from
    names = {p.name for p in kept.iterdir() if not p.name.startswith("events.")}
    assert names == {"config.json", "curve.csv", "curve.png"}


class _Progress:
    """The first step that the page is told, and a kill some seconds after the next state was kept in `runs`."""

    def __init__(self, total, kill_after=None, pid=0, runs=None):
        self.first, self._total, self._kill_after, self._pid, self._runs = 0, total, kill_after, pid, runs
        self._before = self._kept()

    def _kept(self):
        return [path.stat().st_mtime_ns for path in self._runs.glob("*/state.pt")] if self._runs else []

    def __call__(self, kind, data):
        if kind != "progress" or data["max"] != self._total:
            return
        self.first = self.first or data["value"]
        if self._kill_after is not None and self._kept() != self._before:
            threading.Timer(self._kill_after, os.killpg, (self._pid, signal.SIGKILL)).start()
            self._kill_after = None


def test_cancel_and_queue_again(server, load_demo, demo):
    """The page's way: Cancel, then Queue; the training goes on, and says so by its first step."""
    graph = _graph("cancelled", training_seed=77)
    watch = _Cancel(server, 90)
    with pytest.raises(GraphError, match="interrupted"):
        server.queue(graph, on_event=watch)
    again = _Cancel(server, 10**9)
    server.queue(graph, on_event=again)
    assert again.first >= 90, f"it began again at step {again.first}"
    server.queue(_graph("left-alone", training_seed=77, preview_every=400))
    folder = server.base / "models" / "embeddings"
    hashes = [load_concept(folder / f"{name}.safetensors").sha256 for name in ("cancelled", "left-alone")]
    assert hashes[0] == hashes[1]


class _Cancel:
    """Presses Cancel at a step."""

    def __init__(self, server, at):
        self.server, self.at, self.first = server, at, 0

    def __call__(self, kind, data):
        if kind != "progress" or data["max"] != 280:
            return
        self.first = self.first or data["value"]
        if data["value"] >= self.at:
            self.at = 10**9
            self.server.interrupt()
            time.sleep(0.1)
