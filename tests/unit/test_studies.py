"""Blind studies: who is shown what, that no vote is lost, and what the votes say."""

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
from attractor_pack.metrics.study import create, open_study, state_of
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
        for token, name in zip(item["pictures"], (item["first"], item["second"]), strict=True):
            owner.setdefault(token, name)
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
    assert found.strengths[0].low > 0 > found.strengths[1].high
    assert found.votes == 20 and len(found.raters) == 2 and found.left_out == ()
    assert found.alpha is None, "all said the same: nothing to agree by chance on"


def test_who_does_not_look_is_left_out(study):
    votes_for(study, RATERS[0], "ours")
    votes_for(study, RATERS[1], "theirs", sees=False)
    found = study.result()
    assert found.raters == (RATERS[0],) and found.left_out == (RATERS[1],) and found.votes == 10


def test_the_same_pictures_are_the_same_study(study, tmp_path):
    votes_for(study, RATERS[0], "ours")
    again = create(tmp_path, [run(0), run(1)], ["ours", "theirs"], "subject", 10, 0, demo_assets.subject().photos[:2])
    assert again.folder == study.folder and again.result().votes == 10
    other = create(tmp_path, [run(0), run(2)], ["ours", "theirs"], "subject", 10, 0)
    assert other.folder != study.folder and other.result().votes == 0
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
    assert study.picture(own).read_bytes()[:4] == b"\x89PNG"
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
    assert right.tau > 0.6 and right.weight == right.tau and wrong.tau < -0.6 and wrong.weight == 0
    best = people.strengths[0].method
    assert max(zip(found.hybrid, found.names, strict=True))[1] == best and "hybrid" in found.text
    with pytest.raises(AttractorError, match="same names"):
        compare_reports([report("ours"), report("theirs")], ["ours", "others"], people)
