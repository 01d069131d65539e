"""Training with little memory: checkpointing gives the same gradient, and takes over where memory really runs out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from attractor_pack.training import demo_assets
from attractor_pack.training.loop import train
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.watcher import Silent

pytestmark = pytest.mark.host

SHORT = TrainSettings(steps=3, background_steps=2, vectors=2, views=1, resolution=64, batch_size=4)


@pytest.fixture(scope="module", params=["host", "diffusers"])
def model(comfy, request):
    from attractor_pack.backend.diffusers_model import load
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    if request.param == "diffusers":
        return load("demo")
    with torch.inference_mode():
        return HostModel(*demo.load())


@pytest.mark.parametrize(
    ("card", "weights", "resolution", "batch", "expected"),
    [(24, 6.3, 1024, 1, True), (12, 6.3, 1024, 1, False), (8, 1.9, 512, 4, True), (6, 1.9, 512, 4, False)],
)
def test_cards_that_have_no_room_for_a_step_are_told_before_it(comfy, card, weights, resolution, batch, expected):
    """GiB: SDXL has room on a card of 24, not on one of 12; SD1.5 with a batch of 4 on one of 8, not of 6."""
    from attractor_pack.nodes.host import memory

    step = memory.of_a_step(batch * (resolution // 8) ** 2, sdxl=resolution == 1024)
    assert memory.fits(card * 2**30, weights * 2**30, step) is expected
    anew = memory.of_a_step(batch * (resolution // 8) ** 2, sdxl=resolution == 1024, checkpointing=True)
    assert memory.fits(card * 2**30, weights * 2**30, anew)


def test_a_training_without_room_says_so_and_learns_the_same(comfy, monkeypatch):
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    with torch.inference_mode():
        model = HostModel(*demo.load())
    photos, seen = demo_assets.subject(), []

    class Look(Silent):
        def step(self, done, total, value, phase):
            seen.append(_changed(model.patcher.model.diffusion_model))

    plain, _ = train(model, photos, SHORT)
    monkeypatch.setattr(HostModel, "has_room", lambda *_: False)
    anew, history = train(model, photos, SHORT, None, Look())
    assert seen and all(seen) and not _changed(model.patcher.model.diffusion_model)
    assert any("more memory than there is" in note for note in history.notes)
    assert (plain.vectors["l"] - anew.vectors["l"]).abs().max() < 1e-3 * plain.vectors["l"].abs().max()


def test_room_is_what_the_device_has_beside_the_models(comfy, monkeypatch):
    """A device of its own is not at hand: its kind and size are told, the models are weighed."""
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    with torch.inference_mode():
        model = HostModel(*demo.load())
    step = model.memory_of_a_step(4, 512)
    weights = model.patcher.model_size() + model.clip.patcher.model_size()
    assert weights == sum(p.numel() * p.element_size() for m in (model.patcher.model, model.clip.cond_stage_model)
                          for p in (*m.parameters(), *m.buffers()))  # fmt: skip
    assert model.has_room(4096, 512), "nothing is known of a CPU's"
    monkeypatch.setattr(HostModel, "device", property(lambda _: torch.device("cuda")))
    for total, expected in ((1.2 * (2 * step + weights), True), (1.05 * (2 * step + weights), False)):
        monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda _, total=total: total)
        assert model.has_room(4, 512) is expected  # float32 on a GPU takes twice as much
    with torch.inference_mode():
        model.patcher.model.diffusion_model.to(torch.float8_e4m3fn)
    model.patcher.model.manual_cast_dtype = torch.float32
    cast = 4 * sum(p.numel() for p in model.patcher.model.diffusion_model.parameters())
    assert model.memory_of_a_step(4, 512) == 2 * step + cast, "backward keeps what is cast"
    assert model.memory_of_a_step(4, 512, True) < step + step


@pytest.mark.parametrize("kind", ["TI", "XTI", "NeTI"])
def test_checkpointing_learns_the_same(model, kind):
    """Also where every layer has a context of its own, which the host tells apart by a count that goes on."""
    settings = replace(SHORT, representation=kind, steps=3 if kind == "TI" else 6, learning_rate=2e-2)
    photos = demo_assets.subject()
    found = [train(model, photos, replace(settings, checkpointing=on))[0] for on in (False, True)]
    start = train(model, photos, replace(settings, steps=1, background_steps=1, learning_rate=1e-7))[0]
    plain, anew, before = ((one.state or one.vectors) for one in (*found, start))
    moved = max(float((plain[k].float() - before[k].float()).abs().max()) for k in plain)
    apart = max(float((plain[k].float() - anew[k].float()).abs().max()) for k in plain)
    assert apart < 0.02 * moved, (apart, moved)


def test_a_preview_between_keeps_it_on(model):
    """The models go back to the host and are lent again, and the U-Net's forwards are its own in between."""
    unet = getattr(model, "pipeline", None) and model.pipeline.unet or model.patcher.model.diffusion_model
    seen = []

    class Look(Silent):
        def step(self, done, total, value, phase):
            seen.append(("training", _changed(unet)))

        def preview(self, done, concept):
            seen.append(("preview", _changed(unet)))

    train(model, demo_assets.subject(), replace(SHORT, checkpointing=True), None, Look(), preview_every=1)
    assert _changed(unet) == 0
    if hasattr(model, "patcher"):
        assert all(changed > 0 for kind, changed in seen if kind == "training")
        assert all(changed == 0 for kind, changed in seen if kind == "preview")


def _changed(unet):
    return sum("forward" in m.__dict__ for m in unet.modules())


_UNDER_A_LIMIT = """
import resource, sys, torch
from dataclasses import replace
torch.set_num_threads(1)
from attractor_pack.tools.checkpoints import import_host
import_host()
from attractor_pack.attractor.propose import propose
from attractor_pack.nodes.host import demo
from attractor_pack.nodes.host.model import HostModel
from attractor_pack.training import demo_assets
from attractor_pack.training.loop import train
from attractor_pack.training.settings import TrainSettings
with torch.inference_mode():
    model = HostModel(*demo.load())
small = TrainSettings(steps=1, background_steps=1, vectors=2, views=1, resolution=128, batch_size=2)
train(model, demo_assets.subject(), small)
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
room = int(float(sys.argv[1]) * 2**20)
resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
big = TrainSettings(steps=2, background_steps=0, background_scope="none", vectors=2, views=1, resolution=256,
                    batch_size=32)
try:
    if sys.argv[2] == "propose":
        print("NOTES", propose(model, demo_assets.subject(), replace(big, resolution=128), None, 1).sentence)
    else:
        concept, history = train(model, demo_assets.subject(), big)
        print("NOTES", history.notes)
except Exception as error:
    print("RAISED", type(error).__name__, str(error)[:200])
left = sum("forward" in m.__dict__ for m in model.patcher.model.diffusion_model.modules())
print("LEFT", left)
"""


@pytest.mark.parametrize(
    ("what", "room", "expected"),
    [("train", 6000, ["NOTES []"]), ("train", 850, ["activations are computed anew"]),
     ("train", 60, ["RAISED", "memory"]), ("propose", 600, ["NOTES Strength"])],
    ids=["enough", "less", "hardly any", "less for pilots"],
)  # fmt: skip
def test_memory_that_really_runs_out(what, room, expected):
    """A limit on the process, not a mock: what is not there is not there."""
    command = [sys.executable, "-P", "-c", _UNDER_A_LIMIT, str(room), what]
    # without it the allocator keeps what is freed, and the limit would count that too
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment)
    said = [line for line in result.stdout.splitlines() if line.startswith(("NOTES", "RAISED", "LEFT"))]
    assert said and said[-1] == "LEFT 0", result.stdout[-500:] + result.stderr[-1500:]
    for part in expected:
        assert part in said[0], said
