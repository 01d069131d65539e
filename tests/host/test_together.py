"""Several trainings in one batch: each learns what it would have learnt alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.tools.host import GraphError
from attractor_pack.training import demo_assets, together
from attractor_pack.training.concept import load_concept
from attractor_pack.training.loop import train
from attractor_pack.training.resume import RunFolder
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.together import Job, train_together
from attractor_pack.training.watcher import Silent

pytestmark = pytest.mark.host

SHORT = TrainSettings(steps=10, background_steps=6, vectors=2, views=2, resolution=64, batch_size=2)


def likeness(one, other):
    """Largest difference of two concepts' numbers, over their size."""
    return max(float((one.vectors[k] - other.vectors[k]).abs().max() / other.vectors[k].std()) for k in one.vectors)


@pytest.mark.parametrize("kind", ["TI", "XTI", "NeTI"])
def test_each_learns_what_it_learns_alone(model, photos, kind):
    """Other seeds, subjects, batch sizes and lengths, so that they are never in step with one another."""
    few = 3 if kind == "NeTI" else 8
    base = replace(SHORT, representation=kind, steps=few)
    other = replace(base, seed=3, strength=0.5, steps=few - 1, batch_size=3, background_scope="per photo")
    jobs = [Job(photos[0], base, photos[1]), Job(photos[1], other),
            Job(photos[0], replace(base, background_steps=0, steps=few + 3), photos[1])]  # fmt: skip
    found = train_together(model, jobs)
    for job, (concept, history) in zip(jobs, found, strict=True):
        alone, own = train(model, job.subject, job.settings, job.held_out)
        assert likeness(concept, alone) < 2e-3
        for (step, value), (_, other) in zip(own.losses, history.losses, strict=True):
            assert value == pytest.approx(other, rel=1e-3), step
        assert concept.run_card["trained_together"] == 3 and concept.kind == kind


def test_a_full_batch_is_split(model, photos, monkeypatch):
    """No more samples at once than the device is trusted with, with the same result."""
    sizes, original = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda x, *rest: sizes.append(len(x)) or original(x, *rest))
    jobs = [Job(photos[0], replace(SHORT, seed=i, background_steps=0)) for i in range(4)]
    whole = train_together(model, jobs)
    assert max(sizes) == 8
    monkeypatch.setattr(together, "most_together", lambda _: 4)
    sizes.clear()
    halves = train_together(model, jobs)
    assert max(sizes) == 6  # of the measurements, which need no gradient
    assert sizes.count(4) >= 2 * SHORT.steps
    assert all(likeness(a, b) < 2e-3 for (a, _), (b, _) in zip(whole, halves, strict=True))


def test_as_many_at_once_as_there_is_room_for(model, photos, monkeypatch):
    """The batch is made smaller before activations are computed anew."""
    sizes, original = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda x, *rest: sizes.append(len(x)) or original(x, *rest))
    monkeypatch.setattr(type(model), "has_room", lambda _, batch_size, __: batch_size <= 4)
    found = train_together(model, [Job(photos[0], replace(SHORT, seed=i, background_steps=0)) for i in range(4)])
    assert sizes.count(4) >= 2 * SHORT.steps and 8 not in sizes
    assert not any(history.notes for _, history in found)


def test_a_poisoned_one_is_named_and_the_others_go_on_later(model, photos, tmp_path):
    """One cannot learn: all stop, say which, and the others' states are kept."""
    settings = [SHORT, replace(SHORT, learning_rate=10.0, seed=1)]
    jobs = [Job(photos[i], s, None, None, 0, RunFolder.of(tmp_path, model, photos[i], s, None, 1e9)) for i, s in
            enumerate(settings)]  # fmt: skip
    original, calls = model.denoise, iter(range(1000))

    def poisoned(x, *rest):
        found = original(x, *rest)
        if len(x) == 4 and next(calls) == 9:  # the second half of a batch of two trainings
            found = torch.cat([found[:2], found[2:] * float("nan")])
        return found

    model.denoise = poisoned
    try:
        with pytest.raises(AttractorError, match=r"Training 2 of 2 \(cup\): The loss became nan"):
            train_together(model, jobs)
    finally:
        del model.denoise
    assert (jobs[0].runs.path / "state.pt").is_file() and not (jobs[1].runs.path / "state.pt").exists()
    seen = []

    class Look(Silent):
        def step(self, done, total, value, phase):
            seen.append(done)

    concept, _ = train(model, photos[0], SHORT, None, Look(), 0, RunFolder.of(tmp_path, model, photos[0], SHORT))
    assert seen[0] > 5, "it began again"
    assert likeness(concept, train(model, photos[0], SHORT)[0]) < 2e-3


def test_folders_in_a_graph_become_concepts_side_by_side(server, load_demo, demo, tmp_path):
    """Two folders, one a line: a concept each; the page sees one progress; Cancel stops both."""
    source = demo_assets.ASSETS / "subject"
    for name, chosen in (("first", slice(0, 4)), ("second", slice(4, 8))):
        (tmp_path / name).mkdir()
        for path in sorted(source.glob("*.png"))[chosen]:
            shutil.copy(path, tmp_path / name)
    settings = {**TRAINING, "steps": 12, "background_steps": 6, "views": 2}
    graph = load_demo(
        photos=node("Attractor_LoadSubject", folder=f"{tmp_path / 'first'}\n{tmp_path / 'second'}\n", class_word="cup"),
        mask=node("Attractor_Mask", subject=["photos", 0], back_end="saliency", grow=0.0, feather=4.0, fill_holes=True),
        split=node("Attractor_Split", subject=["mask", 0], held_out=1, split_seed=0),
        train=node("Attractor_Train", **demo, train_set=["split", 0], held_out_set=["split", 1], **settings),
        save=node("Attractor_SaveConcept", concept=["train", 0], name="side", when_exists="number"),
        card=node("PreviewAny", source=["train", 2]),
    )
    run = server.queue(graph)
    assert any("2 trainings" in text for text in run.texts)
    cards = [json.loads(text) for text in run.outputs["card"]["text"]]
    assert len(cards) == 2 and all(card["trained_together"] == 2 for card in cards)
    assert cards[0]["train_photos"] != cards[1]["train_photos"]
    folder = server.base / "models" / "embeddings"
    found = [load_concept(folder / f"side{end}.safetensors") for end in ("", "-2")]
    assert found[0].sha256 != found[1].sha256
    graph["train"]["inputs"]["held_out_set"] = ["demo", 3]
    with pytest.raises(GraphError, match="lists of different lengths"):
        server.queue(graph)
    graph["photos"]["inputs"]["class_word"] = "cup\nmug\nbowl"
    with pytest.raises(GraphError, match=r"class_word has 3 lines and folder 2"):
        server.queue(graph)
