"""Which pilots are kept, which one is chosen, and what is said of it."""

from dataclasses import replace

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.propose import Pilot, _as_good, _decide, _kept, _over, _steps, propose
from attractor_pack.backend.diffusers_model import load
from attractor_pack.tools.quality.cases import cases
from attractor_pack.training import demo_assets
from attractor_pack.training.run import TrainingRun
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.side_by_side import SideBySide, Variant
from attractor_pack.training.watcher import Silent

PLAIN = 0.3 + 0.4 * torch.rand(2, 32, generator=torch.Generator().manual_seed(0))  # samples are easy or hard
SHORT = TrainSettings(steps=4, background_steps=3, vectors=2, views=2, resolution=64, batch_size=2, zoom=1.2)


def pilot(strength, *rungs, feather=0.0, own=0.01):
    """With (subject, background) at each rung; all pilots see the same samples, and a little of their own."""
    made = Pilot(strength, feather)
    generator = torch.Generator().manual_seed(int(100 * strength + feather))
    for i, errors in enumerate(rungs):
        noise = own * torch.randn(2, 32, generator=generator)
        risen = (torch.tensor(errors)[:, None] - 1) * PLAIN.mean(1, keepdim=True)
        made.note(35 * (i + 1), _over(PLAIN + risen + noise - noise.mean(1, keepdim=True), PLAIN))
    return made


def test_the_best_pilot_stays_and_those_that_cannot_be_told_from_it_stay_by_strength():
    """The samples differ far more than the pilots, which is no reason to call these alike."""
    pilots = [pilot(1.0, (0.95, 0.99)), pilot(0.85, (0.93, 0.99)), pilot(0.6, (0.85, 0.99)), pilot(0.3, (0.849, 0.99)),
              pilot(0.0, (0.80, 1.30)), pilot(1.0, (0.951, 0.99), feather=30.0)]  # fmt: skip
    assert {p.strength for p in _as_good(pilots)} == {0.6, 0.3}
    assert [pilots[k].strength for k in _kept(pilots)] == [0.85, 0.6, 0.3]
    assert _decide(pilots, pilots, SHORT, "2 held-out photos").strength == 0.6


def test_what_the_background_rises_by_counts_and_what_it_falls_by_does_not():
    leaks, holds = pilot(0.0, (0.90, 1.40)), pilot(1.0, (0.95, 0.90))
    assert leaks.worth == pytest.approx(1.30, abs=0.01) and holds.worth == pytest.approx(0.95, abs=0.01)


def test_a_pilot_that_leaks_is_told_from_one_that_does_not():
    """By what each sample's error has risen over the class word's, and not by how samples differ."""
    pilots = [pilot(1.0, (0.95, 0.99)), pilot(0.0, (0.95, 1.06))]
    assert [p.strength for p in _as_good(pilots)] == [1.0]


def test_pilots_are_compared_after_the_same_number_of_steps():
    pilots = [pilot(1.0, (0.97, 1.0), (0.90, 0.98)), pilot(0.0, (0.99, 1.2)), pilot(1.0, (0.96, 0.99), feather=30.0)]
    found = _decide(pilots, pilots[:1], SHORT, "2 held-out photos")
    assert found.sentence == (
        "Strength 1: on 2 held-out photos the subject's error is 97% of the class word's after 35 steps, and 100% on "
        "other backgrounds; strength 0 came to 99% and 120%. 4 steps."
    )


def test_steps_end_where_the_subject_certainly_gets_worse():
    long = TrainSettings(steps=400)
    assert _steps(pilot(1.0, (0.95, 1.0), (0.90, 1.0), (0.93, 1.0)), long) == 140
    assert _steps(pilot(1.0, (0.95, 1.0), (0.90, 1.0), (0.902, 1.0)), long) == 400


@pytest.fixture(scope="module")
def model():
    return load("demo")


def test_background_tokens_that_are_learnt_beside_the_subject_are_each_pilots_own(model):
    """As in the training that is proposed for; learnt before it they are shared and stand still."""
    for background_steps in (0, 3):
        settings = TrainSettings(**{**SHORT.card(), "background_steps": background_steps})
        with torch.inference_mode(False):
            run = TrainingRun(model, demo_assets.subject(), settings, None, Silent())
            with model.training(settings.batch_size, settings.resolution):
                run.learn_background()
                before = [v.clone() for one in run.backgrounds for v in one.values()]
                side = SideBySide(run, [Variant(s, run.views.masks) for s in (1.0, 0.0)], 4)
                for _ in range(2):
                    side.step()
        first, second = ([v for one in own for v in one.values()] for own in side.backgrounds)
        moved = [not torch.equal(a, b) for own in (first, second) for a, b in zip(own, before, strict=True)]
        apart = any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert (all(moved), apart) == ((True, True) if background_steps == 0 else (False, False))


def test_sets_without_masks_are_refused_by_name(model):
    photos = demo_assets.subject()
    bare = photos.with_photos(replace(p, mask=None) for p in photos.photos[:2])
    with pytest.raises(AttractorError, match="held_out_set has no masks .* Attractor Mask"):
        propose(model, photos, SHORT, bare, 10)
    with pytest.raises(AttractorError, match="train_set has no masks"):
        propose(model, bare, SHORT, None, 10)


@pytest.mark.slow
def test_held_out_photos_of_the_same_shoot_do_not_reward_what_leaks(model):
    """They show the training's background too: one that has learnt it sees them the better for it."""
    photos = cases("develop", 1, ("same_shoot",))[0].sets()[0]
    train, held_out = (photos.with_photos(part) for part in (photos.photos[:-2], photos.photos[-2:]))
    settings = TrainSettings(steps=133, background_steps=67, vectors=3, resolution=64, learning_rate=5e-3, zoom=1.2)
    found = propose(model, train, settings, held_out)
    print(found.sentence)
    last = {pilot.name: pilot.curve[-1] for pilot in found.pilots}
    assert last["strength 0"][2] > 1.1 > last["strength 1"][2]
    assert found.strength == 1 and "on 2 held-out photos" in found.sentence
