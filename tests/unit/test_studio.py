"""Manifests, the release gate and deletion, on real photos scored by a real encoder."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.cli.main import main as cli
from attractor_pack.metrics.encoders import efficientnet_lite0
from attractor_pack.metrics.generations import Generated, Generations
from attractor_pack.metrics.page import write_report
from attractor_pack.metrics.scores import score
from attractor_pack.metrics.splits import split_set
from attractor_pack.studio.forget import Search, Trace, forget, hashes_of, search
from attractor_pack.studio.gate import check_decision, decide, write_decision
from attractor_pack.studio.measures import Evidence
from attractor_pack.studio.policy import NAMES, load_policy
from attractor_pack.training.concept import Concept, save_concept
from attractor_pack.training.photos import photo_from_tensor, read_folder
from attractor_pack.training.rights import check_rights, forbids_training, read_manifest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .test_verdicts import square

DAY = date(2026, 11, 27)
UNSEEN = ("04.jpg", "05.jpg")


def rows(photos, **changes):
    told = {"source": "studio A", "licence": "own", "consent": "C-17", "expires": "2030-01-31", "training": "yes"}
    told |= changes
    lines = [",".join(("photo", *told)), *(",".join((p.name, *told.values())) for p in sorted(photos.glob("*.jpg")))]
    return "\n".join(lines) + "\n"


@pytest.fixture
def photos(dreambooth, tmp_path):
    folder = tmp_path / "backpack"
    shutil.copytree(dreambooth / "backpack", folder)
    (folder / "manifest.csv").write_text(rows(folder), encoding="utf-8")
    return folder


def paints(photos, prompts=8):
    images = torch.stack([square(photos[i % len(photos)]) for i in range(prompts)])
    return Generations(images, tuple(Generated(f"a <subject>, {i}", 0, {}) for i in range(prompts)), "backpack")


@pytest.fixture(scope="module")
def reports(dreambooth, tmp_path_factory):
    """Of a generator that copies its photos and of one that paints photos that neither side holds."""
    folder = tmp_path_factory.mktemp("rights") / "backpack"
    shutil.copytree(dreambooth / "backpack", folder)
    for name in UNSEEN:
        (folder / name).unlink()
    (folder / "manifest.csv").write_text(rows(folder), encoding="utf-8")
    split = split_set(read_folder(folder, "backpack"), 2, 0)
    unseen = [photo for photo in read_folder(dreambooth / "backpack", "backpack").photos if photo.name in UNSEEN]
    base = paints(read_folder(dreambooth / "backpack_dog", "backpack").photos[:4])
    card = {"train_photos": [p.sha256 for p in split.train.photos], "split_certificate": split.certificate.sha256}
    concept = Concept({"l": torch.ones(1, 768)}, "backpack", card)
    encoder = efficientnet_lite0([])
    return {name: score(replace(paints(made), concept=concept), base, split.train, split.held_out, [encoder])
            for name, made in (("copier", split.train.photos), ("honest", unseen))}  # fmt: skip


def evidence(report, day=DAY, **changes):
    data = json.loads(json.dumps(report.as_dict()))
    return Evidence(**{"report": data, "rights": data["rights"], "day": day, **changes})


def policy(tmp_path, *rules, **more):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"name": "mine", "rules": list(rules), **more}), encoding="utf-8")
    return path


# manifests


def test_a_manifest_is_read_in_the_encodings_that_offices_write(photos, tmp_path):
    text = rows(photos, source="東京スタジオ")
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp932"):
        (photos / "manifest.csv").write_bytes(text.encode(encoding))
        found = read_folder(photos, "backpack").photos[0].rights
        assert (found.source, found.consent, found.expires) == ("東京スタジオ", "C-17", date(2030, 1, 31))
    (photos / "manifest.csv").unlink()
    names = [p.name for p in sorted(photos.glob("*.jpg"))]
    (photos / "manifest.json").write_text(json.dumps([{"photo": n, "license": "own"} for n in names]), encoding="utf-8")
    assert read_folder(photos, "backpack").photos[0].rights.licence == "own"


@pytest.mark.parametrize(("text", "said"), [
    ("photo,expires\na.jpg,31.1.2030\n", "row 2: expires is '31.1.2030'"),
    ("photo,expire\na.jpg,2030-01-31\n", "column 'expire' looks like 'expires'"),
    ("photo,training\na.jpg,maybe\n", "row 2: training is 'maybe'"),
    ("photo,consent\na.jpg,1\na.jpg,2\n", "rows 2 and 3 say different things of a.jpg"),
    ("photo,consent\n,1\n", "row 2: 'photo' is empty"),
    ("consent\n1\n", "has no column 'photo'"),
    ("photo,consent\na.jpg,1,2\n", "row 2: has more or fewer cells"),
    ("photo,source,training\na.jpg,no\n", "row 2: has more or fewer cells"),
    ("photo,training,Training\na.jpg,no,yes\n", "has the column 'training' twice"),
    ("photo,training_allowed\na.jpg,no\n", "column 'training_allowed' looks like"),
    ("photo,expiry_date\na.jpg,2020-01-01\n", "column 'expiry_date' looks like"),
    ("photo,consent\n", "has no rows"),
    ("photo,source\na.jpg,\"x\n", "not CSV"),
])  # fmt: skip
def test_a_manifest_that_cannot_be_understood_names_row_and_column(tmp_path, text, said):
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    with pytest.raises(AttractorError, match=said):
        read_manifest(tmp_path / "manifest.csv")


def test_a_manifest_in_no_known_encoding_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"photo\n\x81\x00.jpg\n")
    with pytest.raises(AttractorError, match="not text in UTF-8"):
        read_manifest(tmp_path / "manifest.csv")


def test_ten_thousand_rows_are_read_and_a_photo_without_a_row_is_named(photos, tmp_path):
    many = "photo,consent\n" + "".join(f"{i}.jpg,C{i}\n" for i in range(10_000))
    (tmp_path / "manifest.csv").write_text(many, encoding="utf-8")
    assert len(read_manifest(tmp_path / "manifest.csv")) == 10_000
    (photos / "manifest.csv").write_text("photo,consent\n00.jpg,1\n", encoding="utf-8")
    with pytest.raises(AttractorError, match=r"says nothing of 01\.jpg"):
        read_folder(photos, "backpack")


def test_training_stops_where_it_is_forbidden_or_a_consent_has_ended(photos):
    check_rights(read_folder(photos, "backpack"), DAY)
    with pytest.raises(AttractorError, match=r"00\.jpg: the consent C-17 expired on 2030-01-31"):
        check_rights(read_folder(photos, "backpack"), date(2030, 2, 1))
    (photos / "manifest.csv").write_text(rows(photos, training="no"), encoding="utf-8")
    with pytest.raises(AttractorError, match="manifest forbids training"):
        check_rights(read_folder(photos, "backpack"), DAY)


XMP = (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description plus:DataMining='http://ns.useplus.org/ldf/vocab/"
       b"DMI-PROHIBITED-AIMLTRAINING'/></rdf:RDF></x:xmpmeta>")  # fmt: skip


def test_what_a_file_says_of_itself_stops_training_unless_there_is_a_consent(photos):
    with Image.open(photos / "00.jpg") as picture:
        picture.save(photos / "00.jpg", xmp=XMP)
        packed = PngInfo()
        packed.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        picture.save(photos / "06.png", pnginfo=packed)
    text = rows(photos) + "06.png,studio A,own,C-17,2030-01-31,yes\n"
    (photos / "manifest.csv").write_text(text, encoding="utf-8")
    check_rights(read_folder(photos, "backpack"), DAY)  # the manifest names a consent
    (photos / "manifest.csv").unlink()
    with pytest.raises(AttractorError, match=r"00\.jpg: its metadata says DMI-PROHIBITED-AIMLTRAINING.*06\.png: its"):
        check_rights(read_folder(photos, "backpack"), DAY)


def test_only_what_is_said_of_training_counts():
    told = b'{"c2pa.ai_training": {"use": "%s"}, "c2pa.data_mining": {"use": "notAllowed"}}'
    assert forbids_training(told % b"allowed") == ""
    assert "notAllowed (C2PA)" in forbids_training(told % b"notAllowed")
    assert "constrained (C2PA)" in forbids_training(told % b"constrained")
    assert forbids_training(b"\xa2qc2pa.ai_training\xa1cusejnotAllowed") != "", "as CBOR, which photos hold"
    assert "DMI-PROHIBITED" in forbids_training(b"", XMP.decode().encode("utf-16"))
    assert forbids_training(b"a caption that explains what DMI-PROHIBITED means") == ""


def test_the_command_line_refuses_before_it_loads_a_model(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("attractor_pack.backend.diffusers_model.load", lambda *_: pytest.fail("a model was loaded"))
    (photos / "manifest.csv").write_text(rows(photos, expires="2020-01-01"), encoding="utf-8")
    out = tmp_path / "concept.safetensors"
    code = cli(["train", str(photos), "--word", "backpack", "--model", "demo", "--out", str(out), "--steps", "1"])
    said = capsys.readouterr().err
    assert code == 1 and "expired on 2020-01-01" in said and not out.exists()


# the gate


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


# deletion


def concept(*photos, before=(), started="", held_out=()):
    card = {"train_photos": list(photos), "photos_before": list(before), "held_out_photos": list(held_out),
            "start_concept": started}  # fmt: skip
    number = int(hashes(card)[:6], 16)
    return Concept({"l": torch.full((1, 768), number / 1e7)}, "backpack", card)


def hashes(data):
    import hashlib

    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@pytest.fixture
def house(photos, reports, tmp_path):
    """A studio's folders, with things made of the first photo and things that were not."""
    sha = {p.name: hashes_of([str(p)])[0] for p in sorted(photos.glob("*.jpg"))}
    first, second, third = list(sha.values())[:3]
    embeddings, output = tmp_path / "embeddings", tmp_path / "output"
    mine = concept(first, second)
    save_concept(mine, embeddings, "mine")
    save_concept(concept(third, before=[first, second], started=mine.sha256), embeddings, "grown")
    save_concept(concept(third, second), embeddings, "others")
    run = output / "attractor" / "runs" / "backpack-123"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"train_photos": [first], "mask_hash": "0"}), encoding="utf-8")
    (run / "kept by the user.txt").write_text("mine", encoding="utf-8")
    (run / "state.pt").write_bytes(b"state")
    made = output / "pictures"
    made.mkdir()
    (made / "one.png").write_bytes(b"picture")
    index = {"concept": mine.sha256, "pictures": [{"file": "one.png"}, {"file": "../../embeddings/others.safetensors"}]}
    (made / "pictures.json").write_text(json.dumps(index), encoding="utf-8")
    report = reports["honest"].as_dict() | {"train_photos": [first]}
    (output / "attractor" / "scored").mkdir()
    (output / "r.json").write_text(json.dumps(report), encoding="utf-8")
    both = {"rows": [], "concepts": [mine.sha256], "photos": []}
    (output / "comparison.json").write_text(json.dumps(both), encoding="utf-8")
    (output / "comparison.html").write_text("page", encoding="utf-8")
    (output / "study.json").write_text(json.dumps({"photos": [first], "concepts": []}), encoding="utf-8")
    (output / "catalogue.json").write_text(json.dumps({"items": [first]}), encoding="utf-8")
    for name, text in (("broken.json", "{"), ("odd.json", '{"photos": [{"id": 1}]}'), ("deep.json", "[" * 100_000)):
        (output / name).write_text(text, encoding="utf-8")
    decision = {"decision": "pass", "report_sha256": "0", "train_photos": [first]}
    (output / "decision-final.json").write_text(json.dumps(decision), encoding="utf-8")
    for name, text in (("report.json", json.dumps(report)), ("report.html", "page"), ("notes.txt", "mine")):
        (output / "attractor" / "scored" / name).write_text(text, encoding="utf-8")
    study = tmp_path / "user" / "studies" / "0123456789abcdef"
    study.mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"photos": [], "concepts": [mine.sha256]}), encoding="utf-8")
    (study / "names.json").write_text("{}", encoding="utf-8")
    old = tmp_path / "user" / "studies" / "aaaaaaaaaaaaaaaa"
    old.mkdir()
    for name in ("study.json", "names.json"):
        (old / name).write_text("{}", encoding="utf-8")
    (embeddings / "elsewhere").symlink_to(photos)
    return tmp_path, photos, first, second, third


def places(root, photos):
    return [root / "embeddings", root / "output", root / "user", photos]


def test_all_that_was_made_of_a_photo_is_found_and_nothing_else(house):
    root, photos, first, second, third = house
    found = search([first], places(root, photos))
    assert {(t.kind, t.path.name) for t in found.traces} == {
        ("concept", "mine.safetensors"), ("concept", "grown.safetensors"), ("training", "config.json"),
        ("pictures", "pictures.json"), ("report", "report.json"), ("report", "r.json"), ("photo", "00.jpg"),
        ("study", "study.json"), ("comparison", "comparison.json"), ("decision", "decision-final.json"),
    }  # fmt: skip
    again = {t.path.stem: t.others for t in found.traces if t.kind == "concept"}
    assert again["mine"] == (second,) and set(again["grown"]) == {second, third}
    assert {Path(one).name for one in found.mentioned} == {"study.json", "catalogue.json"}, "left alone, and said so"
    said = " ".join(found.unreadable)
    assert all(name in said for name in ("elsewhere: a link", "broken.json", "deep.json", "earlier version"))
    assert search(["0" * 64], places(root, photos)).traces == []


def test_a_photo_that_came_as_an_image_is_found_by_its_pixels(house):
    root, photos, *_ = house
    with Image.open(photos / "00.jpg") as picture:
        came = photo_from_tensor(torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255, "image_00")
    save_concept(concept(came.sha256), root / "embeddings", "from-image")
    found = search(hashes_of([str(photos / "00.jpg")]), [root / "embeddings"])
    assert "from-image" in {t.path.stem for t in found.traces}


def test_deletion_needs_a_yes_and_leaves_a_receipt(house, capsys):
    root, photos, first, *_ = house
    roots = list(map(str, places(root, photos)))
    assert cli(["forget", str(photos / "00.jpg"), "--within", *roots]) == 0
    assert "Nothing was deleted" in capsys.readouterr().err and (photos / "00.jpg").exists()
    receipt = root / "receipt.json"
    command = ["forget", str(photos / "00.jpg"), "--within", *roots, "--yes", "--receipt", str(receipt)]
    assert cli(command) == 1, "some files could not be looked into, and that is no clean end"
    assert "receipt.json says what is left" in capsys.readouterr().err
    left = {p.name for p in root.rglob("*") if p.is_file() and not p.is_symlink()}
    made = {"mine.safetensors", "grown.safetensors", "state.pt", "one.png", "report.html", "r.json", "comparison.html"}
    assert not left & {"00.jpg", "decision-final.json", *made}
    assert {"others.safetensors", "notes.txt", "01.jpg", "kept by the user.txt", "catalogue.json"} <= left
    assert not (root / "user" / "studies" / "0123456789abcdef").exists()
    text = receipt.read_text(encoding="utf-8")
    record = json.loads(text)
    assert not record["finished"] and first in record["photos"] and str(root) not in text, "names and hashes, no paths"
    named = {one["file"]: one["sha256"] for row in record["deleted"] for one in row["files"]}
    assert len(named["mine.safetensors"]) == 64 and "attractor/scored/report.html" in named
    assert {t.kind for t in search([first], places(root, photos)).traces} == set()
    command[1] = first
    assert cli(command) == 1 and "receipts are kept" in capsys.readouterr().err


def test_a_deletion_that_was_cut_off_is_taken_up_again(house):
    """The concept's file is gone, and only a report still says whose pictures the others are."""
    root, photos, first, *_ = house
    concept_sha = json.loads((root / "output" / "comparison.json").read_text(encoding="utf-8"))["concepts"][0]
    report = {"scores": [], "train_photos": [], "concept_sha256": concept_sha, "run_card": {"train_photos": [first]}}
    (root / "output" / "again.json").write_text(json.dumps(report), encoding="utf-8")
    (root / "embeddings" / "mine.safetensors").unlink()
    kinds = {t.kind for t in search([first], places(root, photos)).traces}
    assert {"pictures", "study", "comparison"} <= kinds
    order = [t.kind for t in search([first], places(root, photos)).traces]
    assert order.index("pictures") < order.index("report") < order.index("concept") < order.index("photo")


def test_what_could_not_be_deleted_is_in_the_receipt(house):
    root, photos, first, *_ = house
    found = search([first], [root / "embeddings"])
    locked = Trace(Path("/proc/version"), "photo", "nobody may delete this", Path("/proc"))
    with pytest.raises(AttractorError, match="receipt.json says what is left"):
        forget(Search(found.photos, [locked, *found.traces]), root / "receipt.json")
    record = json.loads((root / "receipt.json").read_text(encoding="utf-8"))
    assert not record["finished"] and "failed" in record["deleted"][0] and "failed" not in record["deleted"][1]
    assert not (root / "embeddings" / "mine.safetensors").exists(), "the rest is gone"


def test_targets_that_are_no_photos_are_refused(tmp_path):
    for target in (str(tmp_path), "no-such-file.jpg", "abc"):
        with pytest.raises(AttractorError):
            hashes_of([target])
    for root in (tmp_path / "none", Path("/")):
        with pytest.raises(AttractorError, match="no folder to look in"):
            search(["0" * 64], [root])
