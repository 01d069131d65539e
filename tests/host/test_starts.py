"""Where a training starts, what holds its vectors, and which photos share background tokens."""

from __future__ import annotations

import json

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.training import demo_assets
from attractor_pack.training.concept import Concept
from attractor_pack.training.loop import train
from attractor_pack.training.run import TrainingRun
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.shoots import shoots
from attractor_pack.training.watcher import Silent

pytestmark = pytest.mark.host

SHORT = {"steps": 8, "background_steps": 0, "vectors": 3, "views": 1, "resolution": 64, "batch_size": 2}
STILL = {**SHORT, "steps": 1, "learning_rate": 1e-7}


def learn(model, **settings):
    return train(model, demo_assets.subject(), TrainSettings(**settings))[0]


@pytest.mark.parametrize(("kind", "norm"), [("TI", "start"), ("TI", "vocabulary"), ("XTI", "start")])
def test_only_the_direction_is_learnt(model, kind, norm):
    before = learn(model, **STILL, representation=kind, norm=norm)
    after = learn(model, **SHORT, representation=kind, norm=norm)
    vectors = [one.representation()(torch.tensor([5])).vectors["l"][0] for one in (before, after)]
    lengths = [one.norm(dim=-1) for one in vectors]
    assert torch.allclose(*lengths, rtol=1e-4)
    assert float(torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=-1).min()) < 0.98
    free = learn(model, **SHORT, representation=kind).representation()(torch.tensor([5])).vectors["l"][0]
    assert not torch.allclose(free.norm(dim=-1), lengths[0], rtol=1e-2)
    if norm == "vocabulary":
        usual = torch.linalg.vector_norm(model.words("red blue cup lamp")["l"], dim=-1).mean()
        assert torch.allclose(lengths[0], lengths[0][0, 0].expand_as(lengths[0]), rtol=1e-4)
        assert float(lengths[0][0, 0]) == pytest.approx(float(usual), rel=0.5)


def test_a_running_mean_keeps_the_lengths_too(model):
    before = learn(model, **STILL, norm="start").vectors["l"].norm(dim=-1)
    after = learn(model, **SHORT, norm="start", ema=0.9).vectors["l"].norm(dim=-1)
    assert torch.allclose(before, after, rtol=1e-4)


def test_directions_from_the_encoded_word_move_at_the_tables_rate(model):
    how = {"start": "encoded word", "norm": "vocabulary"}
    before, after = (learn(model, **steps, **how).vectors["l"] for steps in (STILL, SHORT))
    turned = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    assert 0.2 < float(turned.min()) < 0.999


def test_what_neti_cannot_start_from_is_said(model):
    with pytest.raises(AttractorError, match="NeTI's network starts about the class word"):
        learn(model, **STILL, representation="NeTI", norm="start")


def test_cross_initialization_starts_at_the_encoders_output(model):
    found = learn(model, **STILL, start="encoded word").vectors["l"]
    with torch.no_grad():
        spelt = model.encode(["a photo of a cup"], [{}]).tokens[0, 5].cpu()  # after <start> a photo of a
    assert torch.allclose(found[0], spelt, atol=1e-3 * float(spelt.std()))
    moved = [_moved(model, start) for start in ("class word", "encoded word")]
    assert moved[1] == pytest.approx(moved[0], rel=0.5), "its rate is not on the scale of its start"


def _moved(model, start):
    before, after = (learn(model, **how, start=start).vectors["l"] for how in (STILL, SHORT))
    return float((after - before).std() / before.std())


@pytest.mark.parametrize("kind", ["TI", "NeTI"])
def test_a_concept_goes_on_from_another(model, kind):
    first = Concept({"l": model.words("red striped lamp")["l"].cpu()}, "cup")
    settings = TrainSettings(**STILL, representation=kind)
    found, _ = train(model, demo_assets.subject(), settings, start_from=first)
    if kind == "TI":
        assert torch.allclose(found.vectors["l"], first.vectors["l"], atol=1e-5)
    assert found.run_card["start_concept"] == first.sha256
    again, _ = train(model, demo_assets.subject(), settings, start_from=found)
    assert again.run_card["photos_before"] == sorted(found.run_card["train_photos"])
    learnt = learn(model, **STILL, representation=kind)
    assert learnt.run_card["start_concept"] == "" and learnt.sha256 != found.sha256


def test_photos_of_one_shoot_share_tokens(model):
    """The demo subject: five photos of one shoot, four elsewhere."""
    photos = demo_assets.subject()
    numbers = dict(zip(photos.names, shoots(photos), strict=True))
    of_shoot = {numbers[name] for name in photos.names if name.startswith("shoot")}
    others = [numbers[name] for name in photos.names if name.startswith("other")]
    assert len(of_shoot) == 1 and not of_shoot & set(others) and len(set(others)) >= 3
    run = TrainingRun(model, photos, TrainSettings(**SHORT, background_scope="per shoot"), None, Silent())
    assert len(run.backgrounds) == len(set(numbers.values()))
    per_view = {photos.names[int(p)]: int(s) for p, s in zip(run.views.photo, run.views.shoot, strict=True)}
    assert per_view == numbers
    concept = learn(model, **{**SHORT, "background_steps": 4}, background_scope="per shoot")
    assert torch.isfinite(concept.vectors["l"]).all()


def test_shoots_do_not_depend_on_the_subject_in_front():
    """Without masks the same, for backgrounds fill most of these photos; one photo is one shoot."""
    photos = demo_assets.subject()
    assert shoots(photos.with_photos(photos.photos[:1])) == [0]
    turned = photos.with_photos(photos.photos[::-1])
    assert len(set(shoots(turned))) == len(set(shoots(photos)))


def test_every_option_of_the_node(server, load_demo, demo):
    """All rarely used inputs at once, going on from a concept; one for another model is refused."""
    options = {"schedule": "constant", "ema": 0.9, "min_snr": 5.0, "timestep_sampling": "toward noise", "colour": 0.3,
               "background_change": "swap", "keeps_context": 0.1, "start": "class word", "norm": "start",
               "background_scope": "per shoot"}  # fmt: skip
    settings = {**TRAINING, "steps": 6, "background_steps": 4, "views": 3}
    graph = load_demo(
        first=node("Attractor_Train", **demo, train_set=["demo", 3], **settings),
        train=node("Attractor_Train", **demo, train_set=["demo", 3], start_concept=["first", 0], **settings | options),
        card=node("PreviewAny", source=["train", 2]),
    )
    run = server.queue(graph)
    assert any("GiB beyond the models" in text and "free on cpu" in text for text in run.texts)
    card = json.loads(run.outputs["card"]["text"][0])
    assert {name: card["settings"][name] for name in options} == options
    assert len(card["start_concept"]) == 64


def test_a_concept_of_another_model_is_no_start(model):
    from attractor_pack.cli.main import main

    wide = Concept({"l": torch.randn(2, 768)}, "cup")
    with pytest.raises(AttractorError, match="768"):
        wide.check_fits(model.widths, None, "this CLIP")
    assert main(["train", str(demo_assets.ASSETS / "subject"), "--out", "nowhere", "--start-from", "missing.st"]) == 1
