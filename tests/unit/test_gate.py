"""The release gate, on real photos scored by a real encoder: what passes, what is blocked and why."""

import json
from datetime import date

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.cli.main import main as cli
from attractor_pack.metrics.page import write_report
from attractor_pack.studio.gate import check_decision, decide, write_decision
from attractor_pack.studio.measures import Evidence
from attractor_pack.studio.policy import NAMES, load_policy

from .conftest import DAY, rows


def evidence(report, day=DAY, **changes):
    data = json.loads(json.dumps(report.as_dict()))
    return Evidence(**{"report": data, "rights": data["rights"], "day": day, **changes})


def policy(tmp_path, *rules, **more):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"name": "mine", "rules": list(rules), **more}), encoding="utf-8")
    return path


def test_the_policies_that_come_with_it_are_sound_and_get_stricter():
    found = [load_policy(name) for name in NAMES]
    assert all(rule.why for one in found for rule in one.rules), "every number is explained"
    for rule in ("copy_share", "memorisation_gap"):
        limits = [r.at_most for one in found for r in one.rules if r.measure == rule]
        assert limits == sorted(limits, reverse=True)


def test_a_copier_is_blocked_with_its_pictures_and_an_honest_generator_passes(reports, tmp_path):
    rules = [{"measure": "copy_share", "at_most": 0.05, "why": "none may be copied"},
             {"measure": "pixel_copies", "at_most": 0}, {"measure": "certificate", "at_least": 1},
             {"measure": "rights", "at_least": 1}, {"measure": "memorisation_gap", "at_most": 0.1}]  # fmt: skip
    chosen = load_policy(str(policy(tmp_path, *rules)))
    honest, copier = (decide(chosen, evidence(reports[name])) for name in ("honest", "copier"))
    assert honest.passed, honest.text
    assert not copier.passed
    assert {rule.measure for rule, _ in copier.broken} == {"copy_share", "pixel_copies", "memorisation_gap"}
    assert "none may be copied" in copier.text and "picture: 'a <subject>, 0', seed 0" in copier.text


def test_what_was_not_measured_blocks_unless_the_policy_says_otherwise(reports, tmp_path):
    for how, passed in (({}, False), ({"unknown": "passes"}, True)):
        chosen = load_policy(str(policy(tmp_path, {"measure": "prompt_kept", "at_least": 0.5, **how})))
        assert decide(chosen, evidence(reports["honest"])).passed is passed
    campaign = decide(load_policy("public-campaign"), evidence(reports["honest"]))
    assert {"people", "leak", "prompt_kept", "pictures"} <= {rule.measure for rule, _ in campaign.broken}


def test_rights_are_asked_for_every_photo_on_the_day(reports, tmp_path):
    chosen = load_policy(str(policy(tmp_path, {"measure": "rights", "at_least": 1})))
    report = reports["honest"]
    assert decide(chosen, evidence(report)).passed
    late = decide(chosen, evidence(report, date(2031, 1, 1)))
    assert not late.passed and f"{len(report.train)} of an expired consent" in late.text
    before = evidence(report)
    before.report["run_card"]["photos_before"] = ["f" * 64]
    assert "1 in no manifest" in decide(chosen, before).text, "photos of the concept that it started from count too"
    copies = load_policy(str(policy(tmp_path, {"measure": "copy_share", "at_most": 1})))
    assert "were not compared" in decide(copies, before).text and not decide(copies, before).passed


def test_a_certificate_counts_only_where_concept_split_and_photos_are_the_same(reports, tmp_path):
    chosen = load_policy(str(policy(tmp_path, {"measure": "certificate", "at_least": 1})))
    assert decide(chosen, evidence(reports["honest"])).passed

    def blocked(why, change):
        looked = evidence(reports["honest"])
        change(looked.report)
        assert why in decide(chosen, looked).text and not decide(chosen, looked).passed, why

    seen = evidence(reports["honest"]).report["held_out_photos"][:1]
    blocked("1 held-out photos were trained on", lambda r: r["run_card"].update(photos_before=seen))
    blocked("does not say which photos", lambda r: r.update(run_card=None))
    blocked("does not say which photos", lambda r: r.update(run_card={}))
    blocked("does not say which photos", lambda r: r.update(concept_sha256=None))
    blocked("on another split", lambda r: r["run_card"].update(split_certificate=""))
    blocked("on another split", lambda r: r["run_card"].update(train_photos=["f" * 64]))
    blocked("no split certificate", lambda r: r.update(split_certificate=None))


def test_numbers_that_are_none_do_not_pass(reports, tmp_path):
    chosen = load_policy(str(policy(tmp_path, {"measure": "copy_share", "at_most": 0.05})))
    looked = evidence(reports["honest"])
    looked.report["scores"][0]["copies"]["share"] = float("nan")
    assert not decide(chosen, looked).passed
    for damage in ({"pixel_copies": [{"picture": 99}]}, {"scores": [{}]}, {"pictures": None}):
        broken = evidence(reports["honest"])
        broken.report.update(damage)
        with pytest.raises(AttractorError, match="damaged|lacks"):
            decide(load_policy("catalogue"), broken)
    late = evidence(reports["honest"])
    next(iter(late.rights.values()))["expires"] = "soon"
    with pytest.raises(AttractorError, match="damaged"):
        decide(load_policy("catalogue"), late)


def test_a_share_of_nothing_is_not_known(reports, tmp_path):
    chosen = load_policy(str(policy(tmp_path, {"measure": "subject_way", "at_least": 0.25})))
    looked = evidence(reports["honest"])
    looked.report["scores"][0].update(floor=0.5, ceiling=0.51)
    assert "cannot be said" in decide(chosen, looked).text and not decide(chosen, looked).passed
    prompts = load_policy(str(policy(tmp_path, {"measure": "prompt_kept", "at_least": 0.5})))
    text = {"kind": "text", "region": "whole", "stamp": {"encoder": "e"}, "pictures": [],
            "follows": {"mean": 0.1, "low": 0.09, "high": 0.11}}  # fmt: skip
    for low, passed in ((-0.02, False), (0.1, True)):
        looked.report["scores"] = [text | {"follows_floor": {"mean": 0.12, "low": low, "high": 0.14}}]
        found = decide(prompts, looked)
        assert found.passed is passed
    assert "at least 64%" in found.text, ".09 of at most .14"


def test_peoples_vote_is_read_by_the_runs_name(reports, tmp_path):
    chosen = load_policy(str(policy(tmp_path, {"measure": "people", "at_least": 0})))
    people = {"votes": 40, "strengths": [{"method": "ours", "value": 0.5, "low": 0.1, "high": 0.9},
                                         {"method": "theirs", "value": -0.5, "low": -0.9, "high": -0.1}]}  # fmt: skip
    for run, passed in (("ours", True), ("theirs", False), ("nobody's", False)):
        assert decide(chosen, evidence(reports["honest"], people=people, run=run)).passed is passed


def test_a_vote_for_another_concept_is_none_for_this_one(reports, tmp_path):
    chosen = load_policy(str(policy(tmp_path, {"measure": "people", "at_least": 0})))
    own = reports["honest"].as_dict()["concept_sha256"]
    people = {"votes": 40, "strengths": [{"method": "rival", "value": 0.9, "low": 0.6, "high": 1.2}],
              "concepts": [own, "e" * 64], "painted_by": {"ours": own, "rival": "e" * 64}}  # fmt: skip
    decision = decide(chosen, evidence(reports["honest"], people=people, run="rival"))
    assert not decision.passed and "painted by another concept" in str(decision.as_dict())


@pytest.mark.parametrize(("rule", "said"), [
    ({"measure": "beauty", "at_least": 1}, "no measure 'beauty'"),
    ({"measure": "leak"}, "would never block"),
    ({"measure": "leak", "at_most": "0.1"}, "Write a number"),
    ({"measure": "leak", "at_most": 0.1, "atleast": 0}, "unknown atleast"),
    ({"measure": "leak", "at_most": 0.1, "at_least": 0.2}, "contradicts itself"),
    ("leak", "no measure 'leak'"),
])  # fmt: skip
def test_a_policy_that_cannot_be_followed_says_which_rule(tmp_path, rule, said):
    with pytest.raises(AttractorError, match=said):
        load_policy(str(policy(tmp_path, rule)))
    with pytest.raises(AttractorError, match="no such policy"):
        load_policy(str(tmp_path / "none.json"))
    two = policy(tmp_path, {"measure": "leak", "at_most": 0.1}, {"measure": "leak", "at_least": 0.5})
    with pytest.raises(AttractorError, match="contradicts itself"):
        load_policy(str(two))


def test_the_record_shows_every_later_change(reports, tmp_path):
    decision = decide(load_policy("internal-draft"), evidence(reports["copier"]))
    path = write_decision(decision, tmp_path / "decision.json")
    record = check_decision(path)
    assert record["decision"] == "block" and record["report_sha256"] == reports["copier"].sha256
    lax = load_policy(str(policy(tmp_path, {"measure": "certificate", "at_least": 1})))
    second = write_decision(decide(lax, evidence(reports["copier"])), path)
    assert second.name == "decision-2.json", "a block is not written over"
    assert write_decision(decision, path) == path, "the same decision again is the same file"
    path.write_text(path.read_text(encoding="utf-8").replace('"block"', '"pass"'), encoding="utf-8")
    with pytest.raises(AttractorError, match="changed after it was written"):
        check_decision(path)


def test_the_command_blocks_with_one_line_and_keeps_the_record(reports, photos, tmp_path, capsys):
    write_report(reports["copier"], tmp_path / "copier")
    write_report(reports["honest"], tmp_path / "honest")
    out = tmp_path / "decision.json"
    own = policy(tmp_path, {"measure": "copy_share", "at_most": 0.05}, {"measure": "rights", "at_least": 1})
    command = ["gate", str(tmp_path / "copier"), "--policy", str(own), "--today", "2026-11-27", "--out", str(out)]
    assert cli(command) == 1
    assert capsys.readouterr().err.rstrip().splitlines()[-1] == "attractor gate: blocked by copy_share"
    assert check_decision(out)["decision"] == "block"
    command = ["gate", str(tmp_path / "honest"), "--policy", str(own), "--today", "2026-11-27"]
    assert cli(command) == 0 and check_decision(tmp_path / "honest" / "decision.json")["decision"] == "pass"
    assert cli([*command, "--photos", str(photos)]) == 0
    (photos / "manifest.csv").write_text(rows(photos, training="no"), encoding="utf-8")
    assert cli([*command, "--photos", str(photos)]) == 1, "the consent was taken back since"
    assert "not to be trained on" in capsys.readouterr().err
    (photos / "manifest.csv").unlink()
    assert cli([*command, "--photos", str(photos)]) == 1, "and so where the manifest is gone"
    assert "in no manifest" in capsys.readouterr().err
