"""The quality benchmark's own arithmetic, on pictures whose figures are known."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest
import torch
from attractor_pack.tools import benchmarks
from attractor_pack.tools.judge import READS, truth
from attractor_pack.tools.quality import __main__ as quality
from attractor_pack.tools.quality.cases import GRADES, SETTINGS, cases
from attractor_pack.tools.quality.figures import FLOOR_PICTURES, Bootstrap, Measured, measure
from attractor_pack.tools.quality.masks import overlap, with_masks
from attractor_pack.tools.quality.methods import (
    FLOOR,
    TUNABLE,
    ablation_table,
    grid,
    main_table,
    mask_table,
    recorded,
)
from attractor_pack.tools.quality.runs import Job, border
from attractor_pack.tools.world import KINDS

PICTURES = 2
NAMES = ("background", "background_colour")


def result(case, background, colours, pictures=PICTURES, gap=0.0, seed=0):
    """A made-up run: every picture shows the true subject on one background; colours [prompts * pictures, 3]."""
    count = len(case.prompts) * pictures
    facts = truth(case.photos[0][0].scene) | dict(zip(NAMES, background, strict=True))
    return {
        "read": {name: [facts[name]] * count for name in READS}, "seed": seed, "diversity": 0.1, "seconds": 1.0,
        "border": np.broadcast_to(colours, (count, 3)).tolist(), "steps": 1, "mask_iou": 1.0,
        "to_train": [0.5 + gap] * count, "to_held_out": [0.5] * count,
    }  # fmt: skip


def target_of(case):
    photos = np.stack([p.image for p in case.photos[0]]).transpose(0, 3, 1, 2)
    return border(torch.from_numpy(photos).float()).mean(0).numpy()


def test_leak_is_one_on_the_training_background_and_nothing_at_the_floor():
    case = cases("test", 1, ("same_shoot",))[0]
    target, start = target_of(case), np.asarray([200.0, 40.0, 40.0])
    trained = next(iter(case.backgrounds))
    other = next(p for p in (("plain", "red"), ("tile", "red")) if p != trained)
    floor = result(case, other, start, FLOOR_PICTURES)
    full = measure(case, result(case, trained, target, gap=0.2), floor)
    assert full.value("leak") == pytest.approx(1) and full.value("leak_share") == 1
    assert full.value("gap") == pytest.approx(0.2)
    assert all(full.value(f"leak.{grade}") == pytest.approx(1) for grade in GRADES)
    none = measure(case, result(case, other, start), floor)
    assert none.value("leak") == 0 and none.value("leak_share") == 0 and none.value("subject") == 1
    assert measure(case, result(case, other, (start + target) / 2), floor).value("leak") == pytest.approx(0.5)
    assert measure(case, floor, floor, is_floor=True).value("leak") == 0


def test_backgrounds_that_are_only_drawn_anew_do_not_count_as_leak():
    """Another background by chance, wherever the prompt leaves it open, is no shift toward the training photos."""
    leaks, rng = [], np.random.default_rng(8)
    case = cases("test", 5, ("same_shoot",))[4]
    for _ in range(60):
        draw = lambda n: rng.uniform(0, 255, (len(case.prompts) * n, 3))  # noqa: E731
        floor = result(case, ("plain", "red"), draw(FLOOR_PICTURES), FLOOR_PICTURES)
        leaks.append(measure(case, result(case, ("plain", "red"), draw(4), 4), floor).values["leak"])
    over, under = np.mean(leaks, axis=0)
    assert abs(over / under) < 0.05


def test_obeying_a_prompt_that_names_the_training_background_in_part_is_no_leak():
    case = cases("test", 2, ("same_shoot",))[1]
    kind, colour = next(iter(case.backgrounds))
    floor = result(case, ("plain", "red"), [200.0, 40.0, 40.0], FLOOR_PICTURES)
    obeying = result(case, ("plain", "red"), [200.0, 40.0, 40.0])
    for i, prompt in enumerate(case.prompts):
        if prompt.background == kind and prompt.colour is None:
            for k in range(i * PICTURES, (i + 1) * PICTURES):
                obeying["border"][k] = target_of(case).tolist()
                obeying["read"]["background"][k], obeying["read"]["background_colour"][k] = kind, colour
    found = measure(case, obeying, floor)
    assert obeying["border"] != result(case, ("plain", "red"), [200.0, 40.0, 40.0])["border"]
    assert found.value("leak") == 0 and found.value("leak_share") == 0


def test_prompts_never_ask_for_what_was_trained_on_and_photos_do_not_mix():
    group = cases("test", 12)
    assert {case.subject.kind for case in group} == set(KINDS) and len(group) == 12 * len(SETTINGS)
    for case in group:
        assert len({p.text for p in case.prompts}) == 20 and {p.grade for p in case.prompts} == set(GRADES)
        asked = {(p.background, p.colour) for p in case.prompts if p.grade == "full"}
        assert not asked & case.backgrounds, case.name
        train, held_out = case.photos
        assert 4 <= len(train) <= 5 and len(held_out) >= 4
        assert not {(p.scene.background, p.scene.background_colour) for p in held_out} & case.backgrounds
    others = {case.subject for name in ("tuning", "develop") for case in cases(name, 12)}
    assert not others & {case.subject for case in group}


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
    same = {"ours.own": "ours", "ours.true": "ours_true_masks", "mask_only.own": "mask_only"}
    for method in rows:
        first = trained[Job(case, method, 0).key]
        assert first in (method.name, same.get(method.name)), (method.name, first)
    assert Job(case, FLOOR, 0).key == Job(case, FLOOR, 1).key
    assert Job(case, TUNABLE[0], 0).key != Job(case, TUNABLE[0], 1).key
    assert len({len(grid(method)) for method in TUNABLE}) == 1


def test_the_bootstrap_covers_what_it_claims():
    """Intervals of a mean over clusters hold the truth about as often as they say; paired differences are narrower."""
    rng, rounds = np.random.default_rng(5), 300
    for subjects in (6, 12):
        hits, bootstrap = 0, Bootstrap(range(subjects), range(3), draws=1000)
        for _ in range(rounds):
            values = rng.normal(0, 1, (subjects, 1)) + rng.normal(0, 0.5, (subjects, 3))
            _, low, high = bootstrap.interval(np.stack([values, np.ones((subjects, 3))]))
            hits += low <= 0 <= high
        assert 0.92 <= hits / rounds <= 0.98, f"plain percentiles held it {'.87' if subjects == 6 else '.92'}"
    bootstrap = Bootstrap(range(12), range(3), draws=1000)
    shared = rng.normal(0, 1, (12, 1))
    a, b = (np.stack([shared + rng.normal(m, 0.05, (12, 3)), np.ones((12, 3))]) for m in (0.2, 0.0))
    _, low, high = bootstrap.interval(a, b, of=lambda x, y: x - y)
    assert 0 < low < high < 0.4


def test_a_part_of_the_record_is_kept_beside_the_others(tmp_path, monkeypatch):
    """Figures, date and seeds of what was run are new, those of the rest the last record's."""
    for name in ("quality.json", "quality_frontier.png"):
        shutil.copy(benchmarks.FOLDER / name, tmp_path)
    shutil.copy(benchmarks.PAGE, tmp_path / "page.md")
    before = json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))
    best = recorded()
    monkeypatch.setattr(benchmarks, "FOLDER", tmp_path)
    monkeypatch.setattr(benchmarks, "PAGE", tmp_path / "page.md")
    chosen = argparse.Namespace(tables=["main"], settings=["varied"], ablation_settings=[], ablation_seeds=2, seeds=3,
                                varied_seeds=None, subjects=12, pictures=4, as_recorded=True)  # fmt: skip
    new = {name: 0.125 for name in before["figures"] if name.startswith("varied.")}
    quality._Bench(chosen, best).write(new)
    after = json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))
    assert {k for k, v in after["figures"].items() if v != before["figures"][k]} <= set(new)
    assert all(after["figures"][name] == 0.125 for name in new) and set(after["figures"]) == set(before["figures"])
    assert "12 subjects x 3 seeds" in after["measured"]["varied"] and after["tuned"] == before["tuned"]
    assert after["tuned_on"] == before["tuned_on"]
    assert {k: v for k, v in after["measured"].items() if k != "varied"} == {
        k: v for k, v in before["measured"].items() if k != "varied"}  # fmt: skip
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert after["measured"]["varied"] in page and before["measured"]["same_shoot"] in page


@pytest.mark.parametrize("options", [["--settings", "varied"], ["--tables", "ablation"], ["--short"],
                                     ["--methods", "ours"]])  # fmt: skip
def test_what_is_not_a_whole_is_not_kept(options):
    with pytest.raises(SystemExit):
        quality.main(["--write", *options])


def test_a_missing_run_is_not_passed_over():
    bootstrap = Bootstrap(range(2), range(2))
    with pytest.raises(ValueError, match="1 runs are missing"):
        bootstrap.table([Measured(s, k, {"leak": (0.0, 1.0)}) for s, k in ((0, 0), (0, 1), (1, 0))], "leak")
