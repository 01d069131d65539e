"""What a report says in words: of generators whose truth is known, made of real photos and scored by a real encoder."""

import csv
import io
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.metrics.compare import compare_reports
from attractor_pack.metrics.copies import copy_check
from attractor_pack.metrics.encoders import efficientnet_lite0
from attractor_pack.metrics.gallery import retrieve
from attractor_pack.metrics.generations import Generated, Generations
from attractor_pack.metrics.page import write_comparison, write_report
from attractor_pack.metrics.regions import only, shift
from attractor_pack.metrics.report import read_report
from attractor_pack.metrics.scores import score
from attractor_pack.metrics.splits import split_set
from attractor_pack.training.photos import read_folder


def square(photo, side=160):
    height, width = photo.pixels.shape[-2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    cut = photo.pixels[None, :, top : top + short, left : left + short]
    return F.interpolate(cut, (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


def paints(photos, prompts=8):
    images = torch.stack([square(photos[i % len(photos)]) for i in range(prompts)])
    return Generations(images, tuple(Generated(f"a <subject>, {i}", 0, {}) for i in range(prompts)), "backpack")


@pytest.fixture(scope="module")
def world(dreambooth):
    """A backpack's photos: two to train on, two held out, and two that an honest generator paints; and others."""
    split = split_set(read_folder(dreambooth / "backpack", "backpack"), 2, 0)
    train = split.train.with_photos(split.train.photos[:2])
    others = read_folder(dreambooth / "backpack_dog", "backpack").photos
    return train, split.held_out, split.train.photos[2:], others


@pytest.fixture(scope="module")
def reports(world):
    """Of a generator that copies its photos and of one that does not, the same base model beside both."""
    train, held_out, unseen, others = world
    encoder, base = efficientnet_lite0([]), paints(others[:4])
    return {name: score(paints(photos), base, train, held_out, [encoder], look_alikes=others)
            for name, photos in (("copier", train.photos), ("honest", unseen))}  # fmt: skip


def test_a_copier_ranks_first_in_the_fields_score_and_gets_the_worse_verdict_here(reports):
    copier, honest = reports["copier"], reports["honest"]
    assert copier.scores[0].train > honest.scores[0].train + 0.1, "CLIP-I of the field: similarity to train photos"
    assert (copier.verdict.grade, honest.verdict.grade) == ("copies", "good")
    assert "copies its photos" in copier.verdict.headline and "does not copy" in honest.verdict.headline
    assert copier.scores[0].copies.share == 1 and len(copier.pixel_copies) == 8
    assert honest.scores[0].copies.share == 0 and honest.pixel_copies == []
    assert copier.scores[0].gap.low > 0


def test_a_photos_very_pixels_are_copies_where_nothing_else_can_be_told(reports):
    copier = reports["copier"]
    few = replace(copier, scores=[replace(s, copies=None, gap=None) for s in copier.scores])
    assert few.verdict.grade == "copies" and "very pixels" in few.verdict.answers[2].text
    clean = replace(few, pixel_copies=[])
    assert clean.verdict.answers[2].grade == "unknown"


def test_an_encoder_to_which_all_is_alike_says_nothing(reports):
    """Floor and ceiling a hair apart: the way between them is noise, however certain the difference."""
    honest = reports["honest"]
    image = honest.scores[0]
    assert image.floor is not None and image.held_out is not None
    near = replace(image, ceiling=image.held_out + 0.001, floor=image.held_out - 0.004)
    answer = replace(honest, scores=[near, *honest.scores[1:]]).verdict.answers[0]
    assert answer.grade == "unknown" and "hardly more like one another" in answer.text


def test_words_do_not_say_more_than_the_figures(world, reports):
    """Without a base model, a text encoder or a second prompt questions stay open; few prompts are said to be few."""
    train, held_out, unseen, others = world
    encoder = efficientnet_lite0([])
    alone = score(paints(unseen), None, train, held_out, [encoder]).verdict
    assert [a.grade for a in alone.answers[:2]] == ["unknown", "unknown"]
    assert "base_generations" in alone.answers[0].text
    assert alone.answers[2].grade == "good" and alone.grade == "unknown", "good, though nobody knows what it shows"
    one = score(paints(unseen, 1), paints(others, 1), train, held_out, [encoder]).verdict
    assert one.answers[0].grade == "unknown" and one.answers[3].grade == "poor"
    same = score(paints(others[:4]), paints(others[:4]), train, held_out, [encoder]).verdict
    assert same.answers[0].grade == "poor" and "Less than" in same.answers[0].text
    few = score(paints(unseen, 4), paints(others, 4), train, held_out, [encoder]).verdict
    assert few.answers[3].grade == "fair" and few.answers[0].grade == "fair", "four prompts are too few to be certain"
    assert "too few to be certain" in few.answers[0].text
    sure = reports["honest"].verdict.answers[3]
    assert sure.grade == "good" and "of these held-out photos (more" in sure.text, "two photos are not the subject"


def test_look_alikes_do_not_pass_for_the_subject(world, reports):
    train, held_out, unseen, others = world
    found = reports["honest"].scores[0].retrieval
    assert found.average_precision > found.chance + 0.3 and found.gallery == len(held_out) + len(others)
    with pytest.raises(AttractorError, match="holds the subject itself"):
        score(paints(unseen), None, train, held_out, [efficientnet_lite0([])], look_alikes=held_out.photos)


def test_retrieval_by_hand():
    own, others = torch.eye(4)[:2], torch.eye(4)[2:]
    best = retrieve(torch.tensor([[0.9, 0.4, 0.1, 0.0]]), own, others)
    worst = retrieve(torch.tensor([[0.1, 0.0, 0.9, 0.4]]), own, others)
    assert best.average_precision == 1 and best.first == 1
    assert worst.average_precision == pytest.approx((1 / 3 + 2 / 4) / 2) and worst.first == 0
    chance = [1, (1 + 2 / 3) / 2, (1 + 2 / 4) / 2, (1 / 2 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, (1 / 3 + 2 / 4) / 2]
    assert best.chance == pytest.approx(sum(chance) / 6)


def test_only_a_region_is_seen():
    image, mask = torch.rand(1, 3, 40, 40), torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    subject, background = only("subject", image, mask), only("background", image, mask)
    assert (subject[..., :10, :] == 0.5).all() and torch.equal(subject[..., 10:30, 10:30], image[..., 10:30, 10:30])
    assert (background[..., 10:30, 10:30] == 0.5).all() and torch.equal(background[..., :8, :], image[..., :8, :])
    assert only("whole", image, mask) is image


def test_the_shift_is_none_for_the_floor_and_one_for_the_photos():
    floor, train = torch.tensor([[1.0, 0.0, 0.0]] * 2), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.8, 0.6]])
    way, prompts = train.mean(0) - floor, ["one", "one"]
    for share in (0.0, 0.4, 1.0):
        assert shift(floor + share * way, floor, train, prompts).tolist() == pytest.approx([share] * 2, abs=1e-6)
    aside = floor + torch.tensor([0.0, 0.3, -0.9])
    assert shift(aside, floor, train, prompts).tolist() == pytest.approx([0] * 2, abs=1e-6)
    assert shift(aside[:1], floor[:1], train, ["one"]) is None, "one picture cannot tell"


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_backgrounds_that_are_only_drawn_anew_do_not_leak(seeds):
    """Pictures and floor from one distribution: no leak, whatever the floor's variance. What is left is a ratio's own
    bias; with the floor on both sides of the product it would be .3.
    """
    generator, found = torch.Generator().manual_seed(3), []
    prompts = [f"prompt {i // seeds}" for i in range(8 * seeds)]
    for _ in range(400):
        places = torch.randn(8, 16, generator=generator).repeat_interleave(seeds, 0)
        pictures, floor = (places + torch.randn(8 * seeds, 16, generator=generator) for _ in range(2))
        train = torch.randn(4, 16, generator=generator) + 1
        moved = shift(pictures, floor, train, prompts)
        assert moved is not None
        found.append(float(moved.mean()))
    assert abs(sum(found) / len(found)) < 0.03


@pytest.mark.slow
def test_leak_is_seen_in_backgrounds(world):
    """Pictures of the subject before the train photos' backgrounds leak; before the base model's they do not."""
    train, held_out, unseen, others = world
    masks = {}

    def find(pixels):
        mask = torch.zeros(pixels.shape[-2:])
        height, width = mask.shape
        mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1
        masks[pixels.shape] = mask
        return mask

    base = paints(others[:4], 4)
    middle = find(base.images[0])

    def before(backgrounds):
        images = torch.stack([square(unseen[0]) * middle + image * (1 - middle) for image in backgrounds])
        return Generations(images, base.items, "backpack")

    leaking = before([square(train.photos[i % 2]) for i in range(4)])
    encoder = efficientnet_lite0([])
    shown = {name: score(made, base, train, held_out, [encoder], find).scores for name, made in
             (("leaks", leaking), ("does not", before(base.images)))}  # fmt: skip
    leak = {name: next(s.leak for s in scores if s.region == "background") for name, scores in shown.items()}
    assert leak["leaks"].mean > 0.5 and leak["leaks"].low > 0.2
    assert abs(leak["does not"].mean) < 0.05
    assert [s.region for s in shown["leaks"]] == ["whole", "subject", "background"]


def test_keeping_to_the_prompt_is_measured_against_the_base_models_own_chance(world):
    """By made-up features: own prompt and others, with the concept and without."""
    train, held_out, _, _ = world

    class Told:
        """Pictures whose first pixel says how near they are to their own and to other prompts."""

        stamp = {"encoder": "told", "weights": "0" * 64, "preprocessing": "", "scale": "cosine"}
        has_text = True

        def images(self, images):
            features = torch.zeros(len(images), 10)
            for i, image in enumerate(images):
                own, other = float(image[0, 0, 0]), float(image[1, 0, 0])
                features[i, :8] = other
                features[i, i % 8] = own
                features[i, 8] = max(0.0, 1 - float(features[i].square().sum())) ** 0.5
            return features

        def texts(self, texts):
            return torch.eye(10)[: len(texts)]

    def painting(own, other):
        images = torch.zeros(8, 3, 64, 64)
        for i in range(8):
            images[i, 0], images[i, 1] = own + 0.002 * (i - 3.5), other
        return Generations(images, tuple(Generated(f"a <subject>, {i}", 0, {}) for i in range(8)), "backpack")

    def answer(made, base):
        return score(made, base, train, held_out, [Told()]).verdict.answers[1]

    base = painting(0.28, 0.10)
    assert "keeps 28%" in answer(painting(0.27, 0.22), base).text
    assert "keeps 94%" in answer(painting(0.22, 0.05), base).text
    assert answer(painting(0.30, 0.05), painting(0.10, 0.28)).grade == "unknown"


def test_near_duplicates_do_not_raise_the_limit(world):
    """Two crops of one train photo would make the limit so high that no copy was above it."""
    train, held_out, _, others = world
    twin = replace(train.photos[0], name="twin.jpg", sha256="1" * 64, pixels=train.photos[0].pixels.flip(-1))
    doubled = train.with_photos([*train.photos, twin])
    found = score(paints(train.photos), paints(others), doubled, held_out, [efficientnet_lite0([])])
    assert found.scores[0].copies.threshold < 0.9 and found.verdict.grade == "copies"


def test_copies_are_judged_by_what_real_photos_reach_and_sscd_by_its_own_limit():
    nearest, real = torch.tensor([0.5, 0.7, 0.8, 0.9]), torch.tensor([0.3, 0.6, 0.1])
    assert copy_check(nearest, real, "x").share == 0.75
    assert copy_check(nearest, real, "SSCD").share == 0.5 and copy_check(nearest, real[:2], "x") is None


def test_runs_side_by_side_are_paired_and_corrected(reports, tmp_path):
    data = {name: json.loads(json.dumps(report.as_dict())) for name, report in reports.items()}
    found = compare_reports([data["copier"], data["honest"]], ["copier", "honest"])
    rows = {row.name: row for row in found.rows}
    nearer = rows["nearer to train photos"]
    assert not nearer.more_is_better and nearer.differences[0].mean < -0.1
    pictures = [data[name]["scores"][0]["pictures"] for name in ("copier", "honest")]
    by_hand = [h["train"] - h["held_out"] - c["train"] + c["held_out"] for c, h in zip(*pictures, strict=True)]
    assert nearer.differences[0].mean == pytest.approx(sum(by_hand) / 8)
    assert all(d.adjusted >= d.p for row in found.rows for d in row.differences)
    assert found.grades == ("copies", "good")
    same = compare_reports([data["honest"]] * 2, ["one", "again"])
    assert "cannot be told apart" in same.text and all(r.differences[0].mean == 0 for r in same.rows)
    _, page = write_comparison(found, tmp_path, list(reports.values()))
    assert page.read_text(encoding="utf-8").count("data:image/") == 3


def test_eight_prompts_can_be_certain_with_and_without_regions(world, reports, tmp_path):
    """What is looked at beside whole pictures must not cost them their certainty, however large the difference."""
    train, held_out, unseen, others = world

    def left(image):
        return (torch.arange(image.shape[-1]) < image.shape[-1] // 2).float().expand(image.shape[-2:]).clone()

    parted = score(paints(unseen), paints(others[:4]), train, held_out, [efficientnet_lite0([])], left)
    whole = reports["honest"].scores[0].over_floor
    image = parted.scores[0]
    assert len(parted.scores) == 3 and image.over_floor is not None and whole is not None
    assert image.over_floor.certain_p == whole.certain_p < 0.05 and parted.verdict.grade == "good"
    runs = [one.as_dict() for one in reports.values()]
    few = compare_reports([runs[0], runs[1], runs[0], runs[1]], ["a", "b", "c", "d"])
    assert "cannot tell" not in few.text, "six differences"
    many = compare_reports([runs[0], runs[1], runs[0], runs[1], runs[0]], ["a", "b", "c", "d", "e"])
    assert "8 prompts cannot tell 8 differences apart" in many.text and "take 9 or more" in many.text


def test_what_cannot_be_compared_is_refused(reports):
    one = reports["honest"].as_dict()
    with pytest.raises(AttractorError, match="nothing to compare"):
        compare_reports([one], ["a"])
    with pytest.raises(AttractorError, match="names"):
        compare_reports([one, one], ["a", "a"])
    with pytest.raises(AttractorError, match="other held-out photos"):
        compare_reports([one, one | {"held_out_photos": ["0" * 64]}], ["a", "b"])
    with pytest.raises(AttractorError, match="other prompts or seeds"):
        compare_reports([one, one | {"pictures": one["pictures"][:-1]}], ["a", "b"])
    scores = [s | {"stamp": s["stamp"] | {"weights": "other"}} for s in one["scores"]]
    with pytest.raises(AttractorError, match="no encoder in common"):
        compare_reports([one, one | {"scores": scores}], ["a", "b"])


def test_report_files_are_read_back_and_newer_ones_refused(reports, tmp_path):
    data, page = write_report(reports["copier"], tmp_path)
    assert read_report(data)["verdict"]["grade"] == "copies"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 8 and float(rows[0]["train"]) > 0.8 and rows[0]["encoder"] == "EfficientNet-Lite0"
    html = page.read_text(encoding="utf-8")
    assert html.index("copies its photos") < html.index("What it paints") and "the photo's own pixels" in html
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps(reports["copier"].as_dict() | {"format": 99}), encoding="utf-8")
    for path, message in ((newer, "newer version"), (tmp_path / "none.json", "cannot be read"), (page, "not JSON")):
        with pytest.raises(AttractorError, match=message):
            read_report(path)
