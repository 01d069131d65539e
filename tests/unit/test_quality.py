"""The quality benchmark's own arithmetic, on pictures whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from attractor_pack.tools.judge import READS, truth
from attractor_pack.tools.quality.cases import GRADES, SETTINGS, cases
from attractor_pack.tools.quality.figures import Bootstrap, Measured, measure
from attractor_pack.tools.quality.masks import overlap, with_masks
from attractor_pack.tools.quality.methods import FLOOR, TUNABLE, ablation_table, grid, main_table, mask_table
from attractor_pack.tools.quality.runs import Job, border
from attractor_pack.tools.world import KINDS

PICTURES = 2


def result(case, background, colours, gap=0.0, seed=0):
    """A made-up run: every picture shows the true subject on one background whose border has one colour."""
    count = len(case.prompts) * PICTURES
    facts = truth(case.photos[0][0].scene) | dict(zip(("background", "background_colour"), background, strict=True))
    return {
        "read": {name: [facts[name]] * count for name in READS}, "border": [list(colours)] * count, "seed": seed,
        "to_train": [0.5 + gap] * count, "to_held_out": [0.5] * count, "diversity": 0.1, "seconds": 1.0, "steps": 1,
        "mask_iou": 1.0,
    }  # fmt: skip


def test_leak_is_one_on_the_training_background_and_nothing_at_the_floor():
    case = cases("test", 1, ("same_shoot",))[0]
    photos = np.stack([p.image for p in case.photos[0]]).transpose(0, 3, 1, 2)
    import torch

    target = border(torch.from_numpy(photos).float()).mean(0).tolist()
    trained = next(iter(case.backgrounds))
    other = next(p for p in (("plain", "red"), ("tile", "red")) if p != trained)
    floor = result(case, other, [200.0, 40.0, 40.0])
    full = measure(case, result(case, trained, target, gap=0.2), floor, PICTURES).values
    assert full["leak"] == pytest.approx(1) and full["leak_share"] == 1 and full["gap"] == pytest.approx(0.2)
    assert all(full[f"leak.{grade}"] == pytest.approx(1) for grade in GRADES)
    none = measure(case, floor, floor, PICTURES).values
    assert none["leak"] == 0 and none["leak_share"] == 0 and none["subject"] == 1
    half = [(a + b) / 2 for a, b in zip(target, [200.0, 40.0, 40.0], strict=True)]
    assert measure(case, result(case, other, half), floor, PICTURES).values["leak"] == pytest.approx(0.5)


def test_prompts_never_ask_for_what_was_trained_on_and_photos_do_not_mix():
    group = cases("test", 12)
    assert {case.subject.kind for case in group} == set(KINDS) and len(group) == 12 * len(SETTINGS)
    for case in group:
        assert len(case.prompts) == 20 and {p.grade for p in case.prompts} == set(GRADES)
        asked = {(p.background, p.colour) for p in case.prompts if p.grade == "full"}
        assert not asked & case.backgrounds, case.name
        train, held_out = case.photos
        assert 4 <= len(train) <= 5 and len(held_out) >= 4
        assert not {(p.scene.background, p.scene.background_colour) for p in held_out} & case.backgrounds
    tuning = {case.subject for case in cases("tuning", 4)}
    assert not tuning & {case.subject for case in group}


def test_masks_are_wrong_as_they_are_meant_to_be():
    subject, _ = cases("test", 1, ("same_shoot",))[0].sets()
    wrong = ("eroded", "dilated", "box")
    sizes = {q: float(sum(p.mask.mean() for p in with_masks(subject, q).photos)) for q in ("true", *wrong)}
    assert sizes["eroded"] < sizes["true"] < min(sizes["dilated"], sizes["box"])
    assert overlap(with_masks(subject, "true"), subject) == 1
    assert all(0.2 < overlap(with_masks(subject, q), subject) < 0.9 for q in wrong)
    assert with_masks(subject, "none").photos[0].mask is None


def test_every_run_has_a_key_of_its_own_and_every_method_the_same_grid():
    case = cases("test", 1, ("same_shoot",))[0]
    rows = [*main_table({}), *mask_table({}), *ablation_table({})]
    trained = {}
    for method in rows:
        trained.setdefault(Job(case, method, 0).key, method.name)
    same = {"ours.own": "ours", "ours.true": "ours_true_masks", "no background tokens": "mask_only.own"}
    for method in rows:
        first = trained[Job(case, method, 0).key]
        assert first in (method.name, same.get(method.name)), (method.name, first)
    assert Job(case, FLOOR, 0).key == Job(case, FLOOR, 1).key
    assert Job(case, TUNABLE[0], 0).key != Job(case, TUNABLE[0], 1).key
    assert len({len(grid(method)) for method in TUNABLE}) == 1


def test_the_bootstrap_covers_what_it_claims():
    """Intervals of a mean over clusters hold the truth about as often as they say; paired differences are narrower."""
    rng, hits, rounds = np.random.default_rng(5), 0, 200
    bootstrap = Bootstrap(range(12), range(3), draws=400)
    for _ in range(rounds):
        values = rng.normal(0, 1, (12, 1)) + rng.normal(0, 0.5, (12, 3))
        _, low, high = bootstrap.interval(values)
        hits += low <= 0 <= high
    assert 0.86 <= hits / rounds <= 0.98
    shared = rng.normal(0, 1, (12, 1))
    a, b = shared + rng.normal(0.2, 0.05, (12, 3)), shared + rng.normal(0, 0.05, (12, 3))
    _, low, high = bootstrap.interval(a, b, of=lambda x, y: x - y)
    assert 0 < low < high < 0.4


def test_a_missing_run_is_not_passed_over():
    bootstrap = Bootstrap(range(2), range(2))
    with pytest.raises(ValueError, match="1 runs are missing"):
        bootstrap.table([Measured(s, k, {"leak": 0.0}) for s, k in ((0, 0), (0, 1), (1, 0))], "leak")
