"""Blind studies: who is shown what, that no vote is lost, and what the votes say."""

import collections
import hashlib
import json
import sqlite3
import threading

import numpy as np
import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.metrics.compare import compare_reports
from attractor_pack.metrics.generations import Generated, Generations
from attractor_pack.metrics.people import Vote, count
from attractor_pack.metrics.study import create, open_study, others_with_votes, state_of
from attractor_pack.training import demo_assets

RATERS = ("rater-one", "rater-two")


def run(seed, prompts=4, seeds=3):
    items = tuple(Generated(f"a <subject>, {i}", j, {}) for i in range(prompts) for j in range(seeds))
    images = torch.rand(len(items), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Generations(images, items, "cup")


@pytest.fixture
def study(tmp_path):
    return create(tmp_path, [run(0), run(1)], ["ours", "theirs"], "subject", 10, 0, demo_assets.subject().photos[:2])


def votes_for(study, rater, method, sees=True):
    """Vote for one method wherever it is shown; the spoilt picture only if the rater does not look."""
    owner = {}
    for item in study.manifest["items"]:
        for token, run_ in zip(item["pictures"], (item["first"], item["second"]), strict=True):
            owner.setdefault(token, study.names[run_])
    whole = {item["pictures"][0] for item in study.manifest["items"] if item.get("catch")}
    spoilt = {item["pictures"][1] for item in study.manifest["items"] if item.get("catch")}
    for position, pair in enumerate(study.state(rater)["pairs"]):
        left, right = pair["left"], pair["right"]
        if {left, right} & spoilt:
            right_side = "left" if left in whole else "right"
            choice = right_side if sees else {"left": "right", "right": "left"}[right_side]
        else:
            choice = "left" if owner[left] == method else "right"
        study.vote(rater, position, choice, 1.5)


def test_a_study_hides_whose_picture_it_is(study):
    state = study.state(RATERS[0])
    assert "ours" not in json.dumps(state) and "theirs" not in json.dumps(state)
    files = sorted((study.folder / "pictures").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    runs = {token: run_ for item in study.manifest["items"] if not item.get("catch")
            for token, run_ in zip(item["pictures"], (item["first"], item["second"]), strict=True)}  # fmt: skip
    order = [runs[path.stem] for path in files if path.stem in runs]
    assert 3 < sum(a != b for a, b in zip(order, order[1:], strict=False)), "not one run's files after the other's"
    shown = (run(0).images[0] * 255).round().to(torch.uint8).numpy().tobytes()
    assert not any(hashlib.sha256(shown).hexdigest().startswith(path.stem) for path in files)
    assert len(state["pairs"]) == 12, "ten pairs and two that catch who does not look"
    assert len({pair["prompt"] for pair in state["pairs"]}) == 4 and "this cup" in state["pairs"][0]["prompt"]
    assert len(state["references"]) == 2 and "cup" in state["question"]
    other = study.state(RATERS[1])
    assert [p["left"] for p in state["pairs"]] != [p["left"] for p in other["pairs"]], "each rater has an own order"
    assert state == study.state(RATERS[0])
    sides = [p["left"] == i["pictures"][0] for p in state["pairs"] for i in study.manifest["items"]
             if {p["left"], p["right"]} == set(i["pictures"])]  # fmt: skip
    assert 2 <= sum(sides) <= 10, "sides are shuffled"


def test_votes_count_for_the_method_wherever_it_was_shown(study, tmp_path):
    before = state_of(tmp_path)
    votes_for(study, RATERS[0], "ours")
    assert state_of(tmp_path) != before, "the node sees that there is a new result"
    votes_for(study, RATERS[1], "ours")
    found = open_study(tmp_path, study.id).result()
    assert [s.method for s in found.strengths] == ["ours", "theirs"]
    assert found.strengths[0].value > 1 > -1 > found.strengths[1].value
    assert found.strengths[0].low is None, "four prompts are too few for an interval"
    assert found.votes == 20 and len(found.raters) == 2 and found.left_out == ()
    assert found.alpha == 1 and found.agreed == 1, "they agree, however one-sided it is"


def test_who_does_not_look_is_left_out(study):
    votes_for(study, RATERS[0], "ours")
    votes_for(study, RATERS[1], "theirs", sees=False)
    found = study.result()
    assert found.raters == (RATERS[0],) and found.left_out == (RATERS[1],) and found.votes == 10


def test_the_same_pictures_are_the_same_study(study, tmp_path):
    votes_for(study, RATERS[0], "ours")
    again = create(tmp_path, [run(0), run(1)], ["ours", "theirs"], "subject", 10, 0, demo_assets.subject().photos[:2])
    assert again.folder == study.folder and again.result().votes == 10
    renamed = create(tmp_path, [run(0), run(1)], ["Ours", "Theirs"], "subject", 10, 0, demo_assets.subject().photos[:2])
    assert renamed.result().votes == 10 and renamed.result().methods == ("Ours", "Theirs")
    other = create(tmp_path, [run(0), run(2)], ["ours", "theirs"], "subject", 10, 0)
    assert other.folder != study.folder and other.result().votes == 0
    assert others_with_votes(tmp_path, other) == [study.id] and others_with_votes(tmp_path, study) == []
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_a_vote_can_be_changed_and_goes_on_where_it_was(study):
    for position in range(12):
        study.vote(RATERS[0], position, "tie", 1.0)
        study.vote(RATERS[0], position, "left", 1.0)
    study.vote(RATERS[0], 3, "right", 1.0)
    shown = [p["choice"] for p in study.state(RATERS[0])["pairs"]]
    assert shown == [*["left"] * 3, "right", *["left"] * 8], "as the rater saw it, whichever side that was"


def test_many_raters_at_once_lose_no_vote(study):
    names = [f"rater-{i:04d}" for i in range(8)]
    threads = [threading.Thread(target=votes_for, args=(study, name, "ours")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite3.connect(study.folder / "votes.db") as database:
        assert database.execute("SELECT count(*) FROM votes").fetchone() == (8 * 12,)
    assert study.result().votes == 80


def test_only_this_studys_pictures_are_given(study, tmp_path):
    other = create(tmp_path, [run(5), run(6)], ["a", "b"], "overall", 4, 0)
    foreign = other.manifest["items"][0]["pictures"][0]
    own = study.manifest["items"][0]["pictures"][0]
    assert study.picture(own)[:4] == b"\x89PNG"
    for token in (foreign, "../study", "..%2f", own.upper(), "", f"{own}.png"):
        with pytest.raises(AttractorError, match="no such picture"):
            study.picture(token)
    for name in ("../" + study.id, study.id[:-1], "", "<script>", study.id + "/.."):
        with pytest.raises(AttractorError, match="no study"):
            open_study(tmp_path, name)


@pytest.mark.parametrize("vote", [
    ("<script>alert(1)</script>", 0, "left"), ("short", 0, "left"), (RATERS[0], 12, "left"), (RATERS[0], -1, "left"),
    (RATERS[0], True, "left"), (RATERS[0], "0", "left"), (RATERS[0], 0, "both"), (RATERS[0], 0, None), (7, 0, "left"),
])  # fmt: skip
def test_votes_that_cannot_be_are_refused(study, vote):
    with pytest.raises(AttractorError):
        study.vote(*vote, 1.0)
    assert study.result().votes == 0


def test_a_vote_for_another_raters_pair_is_refused(study):
    pairs = study.state(RATERS[0])["pairs"]
    study.vote(RATERS[0], 0, "left", 1.0, pairs[0]["left"])
    with pytest.raises(AttractorError, match="another rater's pair"):
        study.vote(RATERS[0], 0, "left", 1.0, pairs[0]["right"])


def test_pairs_come_from_all_prompts_alike(tmp_path):
    runs = [run(i, prompts=10) for i in range(3)]
    items = create(tmp_path, runs, ["a", "b", "c"], "overall", 20, 0).manifest["items"][:20]
    by_prompt = collections.Counter(item["prompt"] for item in items)
    assert set(by_prompt.values()) == {2} and len(by_prompt) == 10
    by_pair = collections.Counter((item["first"], item["second"]) for item in items)
    assert max(by_pair.values()) - min(by_pair.values()) <= 2


def test_a_picture_on_which_spoiling_does_not_show_catches_nobody(tmp_path):
    black = run(0)
    black = Generations(torch.zeros_like(black.images), black.items, "cup")
    study = create(tmp_path, [black, run(1)], ["black", "other"], "overall", 10, 0)
    catches = [item for item in study.manifest["items"] if item.get("catch")]
    assert len(catches) == 2 and {study.names[item["first"]] for item in catches} == {"other"}


def test_runs_that_do_not_pair_make_no_study(tmp_path):
    with pytest.raises(AttractorError, match="other prompts or seeds"):
        create(tmp_path, [run(0), run(1, seeds=2)], ["a", "b"], "overall", 4, 0)
    for names in (["a", "a"], ["a"], ["a", "b", "c"]):
        with pytest.raises(AttractorError, match="names"):
            create(tmp_path, [run(0), run(1)], names, "overall", 4, 0)
    assert not list(tmp_path.iterdir())


def test_strengths_come_with_intervals_that_hold():
    """True logits 1 and -1 between three methods: the interval holds them in most of fifty studies."""
    true, held = {"a": 1.0, "b": 0.0, "c": -1.0}, []
    for world in range(50):
        rng = np.random.default_rng(world)
        votes = [Vote(f"r{r}", (f"p{p}", 0), x, y, float(rng.random() < 1 / (1 + np.exp(true[y] - true[x]))))
                 for p in range(20) for r in range(2) for x, y in (("a", "b"), ("a", "c"), ("b", "c"))]  # fmt: skip
        found = count(votes, list(true), "overall", seed=world)
        held += [s.low <= true[s.method] <= s.high for s in found.strengths]
    assert 0.85 <= np.mean(held) <= 1


def test_the_hybrid_listens_to_the_measure_that_people_bear_out(tmp_path):
    """Two measures, one that says what people say and one that says the contrary."""
    rng = np.random.default_rng(0)
    first = run(0)
    liked = {("ours", k): rng.normal(0.3) for k in first.keys} | {("theirs", k): rng.normal() for k in first.keys}

    def report(name):
        pictures = [{"prompt": p, "seed": s} for p, s in first.keys]
        rows = [{"prompt": p, "seed": s, "text": liked[name, (p, s)]} for p, s in first.keys]
        wrong = [{**r, "text": -r["text"]} for r in rows]
        stamps = [{"encoder": e, "weights": e} for e in ("right", "wrong")]
        return {"pictures": pictures, "held_out_photos": ["x"], "scores": [
            {"stamp": s, "kind": "text", "region": "whole", "pictures": v}
            for s, v in zip(stamps, (rows, wrong), strict=True)]}  # fmt: skip

    votes = [Vote(r, k, "ours", "theirs", float(liked["ours", k] > liked["theirs", k])) for k in first.keys
             for r in RATERS]  # fmt: skip
    people = count(votes, ["ours", "theirs"], "overall")
    found = compare_reports([report("ours"), report("theirs")], ["ours", "theirs"], people)
    right, wrong = found.agreement
    assert right.tau > 0.6 and right.weight == right.tau / 2 and wrong.tau < -0.6 and wrong.weight == 0
    assert right.p < 0.2 and "pairs won" in found.text
    won = np.mean([liked["ours", k] > liked["theirs", k] for k in first.keys])
    assert found.hybrid == pytest.approx((won, 1 - won)), "people and the one measure that agrees say the same"
    same = count([Vote(r, k, "ours", "theirs", 1.0) for k in first.keys for r in RATERS], ["ours", "theirs"], "overall")
    better = {**{("ours", k): 1.0 for k in first.keys}, **{("theirs", k): 0.0 for k in first.keys}}
    liked.update(better)
    assert compare_reports([report("ours"), report("theirs")], ["ours", "theirs"], same).agreement[0].tau > 0.7, (
        "unanimous people and a measure that always says so too agree")  # fmt: skip
    with pytest.raises(AttractorError, match="same names"):
        compare_reports([report("ours"), report("theirs")], ["ours", "others"], people)
