"""After training, Cancel, running out of memory or any error the host's models are bit for bit what they were."""

from __future__ import annotations

import threading
import time

import pytest
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.tools.host import GraphError

pytestmark = pytest.mark.host

_TAG = iter(range(10_000))


@pytest.fixture
def look(server, load_demo, demo, said):
    """State of the host's models as a probe node sees it, and what a stock KSampler paints."""

    def look():
        tag = str(next(_TAG))
        run = server.queue(load_demo(
            state=node("Probe_State", **demo, tag=tag),
            positive=node("CLIPTextEncode", clip=["demo", 1], text="a photo of a cup on a red plain background"),
            negative=node("CLIPTextEncode", clip=["demo", 1], text=""),
            latent=node("EmptyLatentImage", width=64, height=64, batch_size=1),
            again=node("Probe_Again", model=["demo", 0], tag=tag),
            sampler=node("KSampler", model=["again", 0], positive=["positive", 0], negative=["negative", 0],
                         latent_image=["latent", 0], seed=5, steps=4, cfg=4.0, sampler_name="euler",
                         scheduler="normal", denoise=1.0),
            decode=node("VAEDecode", samples=["sampler", 0], vae=["demo", 2]),
            picture=node("Probe_Image", image=["decode", 0], tag=tag),
        ))  # fmt: skip
        assert "sampler" in run.executed and "demo" not in run.executed[1:]
        state = said(run, "state")
        state.pop("rng")
        return state, said(run, "picture")

    look()  # the first run loads the models
    return look


def training(load_demo, demo, model=None, **changes):
    """Only training, on the demo subject; a fresh seed each time, so that it really runs."""
    settings = {**TRAINING, "steps": 12, "background_steps": 6, "views": 2, "training_seed": next(_TAG), **changes}
    model = model or demo["model"]
    return load_demo(
        broken=node("Probe_Break", model=["demo", 0], how=changes.pop("how", "oom"), after=changes.pop("after", 10**9)),
        train=node("Attractor_Train", **{**demo, "model": model}, train_set=["demo", 3], **settings),
        out=node("PreviewAny", source=["train", 2]),
    )


def test_after_training_nothing_has_changed(server, look, load_demo, demo):
    before = look()
    run = server.queue(training(load_demo, demo, preview_every=4))
    assert "train" in run.executed
    assert look() == before
    state = before[0]
    for part in ("model", "clip", "vae"):
        assert (state[part]["hooks"], state[part]["grads"], state[part]["changed_forwards"]) == (0, 0, [])
    assert "_try_get_embedding" not in state["tokenizer"]


def test_training_again_loads_nothing_again(server, look, load_demo, demo):
    server.queue(training(load_demo, demo))
    loads = server.log.count("Requested to load")
    run = server.queue(training(load_demo, demo))
    assert run.executed == ["train", "out"]
    assert server.log.count("Requested to load") == loads


def test_cancel_ends_it_within_a_step_and_changes_nothing(server, look, load_demo, demo):
    before = look()
    steps, pressed = [], []

    def on_event(kind, data):
        if kind == "progress":
            steps.append((data["value"], time.monotonic()))
            if data["value"] >= 10 and not pressed:
                pressed.append((data["value"], time.monotonic()))
                threading.Thread(target=server.interrupt).start()

    with pytest.raises(GraphError) as error:
        server.queue(training(load_demo, demo, steps=5000), on_event=on_event)
    ended = time.monotonic()
    assert error.value.kind == "interrupted"
    step_seconds = (steps[-1][1] - steps[0][1]) / max(1, len(steps) - 1)
    late = ended - pressed[0][1]
    print(f"cancelled at step {pressed[0][0]}, ended after {late:.2f} s; a step takes {step_seconds:.3f} s")
    assert steps[-1][0] - pressed[0][0] <= 1 + 0.5 / step_seconds, "it went on after the request had arrived"
    assert look() == before


@pytest.mark.parametrize("after", [0, 20, 150])
def test_out_of_memory_is_passed_on_and_changes_nothing(server, look, load_demo, demo, after):
    before = look()
    graph = training(load_demo, demo, model=["broken", 0])
    graph["broken"]["inputs"]["after"] = after
    with pytest.raises(GraphError) as error:
        server.queue(graph)
    assert "OutOfMemory" in error.value.kind or "OOM" in error.value.kind, error.value.kind
    assert look() == before


def test_a_loss_that_is_no_number_says_so_and_changes_nothing(server, look, load_demo, demo):
    before = look()
    graph = training(load_demo, demo, model=["broken", 0])
    graph["broken"]["inputs"].update(how="nan", after=200)
    with pytest.raises(GraphError, match="loss became nan at step") as error:
        server.queue(graph)
    assert "learning_rate" in error.value.message
    assert look() == before
