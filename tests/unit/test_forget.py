"""Deletion of all that was made of a photo, and of nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.cli.main import main as cli
from attractor_pack.studio.forget import Search, Trace, forget, hashes_of, search
from attractor_pack.training.concept import Concept, save_concept
from attractor_pack.training.photos import photo_from_tensor
from PIL import Image


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
