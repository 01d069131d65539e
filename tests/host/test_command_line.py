"""The command line as a user calls it, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attractor_pack.studio.gate import check_decision, digest
from attractor_pack.training import demo_assets
from attractor_pack.training.concept import load_concept


def attractor(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "attractor_pack.cli.main", *map(str, arguments)], capture_output=True, text=True
    )


def test_split(dreambooth, tmp_path):
    done = attractor("split", dreambooth / "cat", "--held-out", 2, "--seed", 0, "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert sorted(found["train"] + found["held_out"]) == [f"0{i}.jpg" for i in range(5)]
    assert len(found["held_out"]) == 2 and found["groups"] == [["02.jpg", "03.jpg"]] and found["warnings"] == []


def test_mask_writes_eight_bit_pngs_of_the_photos_sizes(dreambooth, tmp_path):
    from PIL import Image

    done = attractor("mask", dreambooth / "duck_toy", "--backend", "auto", "--word", "duck", "--out", tmp_path,
                     "--json", tmp_path / "m.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdicts = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["photos"]
    assert sorted(verdicts) == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    for name in verdicts:
        with Image.open(tmp_path / name.replace("jpg", "png")) as mask, Image.open(dreambooth / "duck_toy" / name) as p:
            assert mask.mode == "L" and mask.size == p.size and mask.getextrema()[1] > 200


def _heeds_ctrl_c():
    """A shell's background jobs ignore it, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_stopped_training_goes_on(tmp_path):
    """Ctrl-C, and the same command again."""
    photos = tmp_path / "photos"
    shutil.copytree(demo_assets.ASSETS / "subject", photos, ignore=shutil.ignore_patterns("masks", "*.json"))
    command = [sys.executable, "-P", "-m", "attractor_pack.cli.main", "train", str(photos), "--word", "cup", "--masks",
               str(demo_assets.ASSETS / "subject" / "masks"), "--held-out", "3", "--resolution", "64", "--steps", "30",
               "--background-steps", "0", "--views", "1", "--representation", "XTI", "--name", "mug"]  # fmt: skip
    running = subprocess.Popen([*command, "--out", str(tmp_path / "a")], stderr=subprocess.PIPE, text=True,
                               preexec_fn=_heeds_ctrl_c)  # fmt: skip
    for line in running.stderr or ():
        if "step 12 " in line:
            running.send_signal(signal.SIGINT)
            break
    assert "the same command goes on where it was" in running.communicate(timeout=60)[1] and running.returncode == 1
    again = subprocess.run([*command, "--out", str(tmp_path / "a")], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    steps = [int(n) for n in re.findall(r"step (\d+) of 30", again.stderr)]
    assert 12 <= steps[0] and steps[-1] == 30
    whole = subprocess.run([*command, "--out", str(tmp_path / "b")], capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    hashes = {load_concept(tmp_path / out / "mug.safetensors").sha256 for out in "ab"}
    assert len(hashes) == 1


@pytest.mark.slow
def test_train_sample_and_score(tmp_path):
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    for path in (demo_assets.ASSETS / "subject").glob("*.png"):
        shutil.copy(path, photos)
    rows = [f"{path.name},C-17,2099-01-01" for path in sorted(photos.iterdir())]
    (photos / "manifest.csv").write_text("\n".join(["photo,consent,expires", *rows]), encoding="utf-8")
    shutil.copytree(demo_assets.ASSETS / "subject" / "masks", masks)
    done = attractor("train", photos, "--word", "cup", "--masks", masks, "--held-out", 3, "--resolution", 64, "--steps",
                     8, "--background-steps", 4, "--views", 1, "--name", "mug", "--representation", "NeTI",
                     "--out", tmp_path / "out", "--json", tmp_path / "t.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    split = {k: trained[k] for k in ("train", "held_out", "certificate")}
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    prompt = ("--prompt", "a photo of a <subject> on a red plain background", "--steps", 4, "--size", 64, "--seeds", 2)
    for folder, more in (("with", ("--concept", trained["concept"])), ("base", ("--word", "cup"))):
        done = attractor("sample", tmp_path / folder, *prompt, *more)
        assert done.returncode == 0, done.stderr
    done = attractor("score", tmp_path / "with", "--photos", photos, "--split", tmp_path / "split.json", "--base",
                     tmp_path / "base", "--concept", trained["concept"], "--out", tmp_path / "report", "--json",
                     tmp_path / "r.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["scores"][0]["memorisation_gap"] is not None and len(report["pictures"]) == 2
    assert (tmp_path / "report" / "report.html").is_file()
    assert report["scores"][0]["over_floor"]["units"] == 1
    done = attractor("split", photos, "--held-out", 3, "--json", tmp_path / "split.json")
    assert done.returncode == 0, done.stderr
    edited = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))
    edited["certificate"]["held_out"][0] = "0" * 64
    (tmp_path / "edited.json").write_text(json.dumps(edited), encoding="utf-8")
    done = attractor("score", tmp_path / "base", "--photos", photos, "--split", tmp_path / "edited.json")
    assert done.returncode == 1 and "certificate was made for other held-out photos" in done.stderr
    done = attractor("score", tmp_path / "base", "--photos", photos, "--split", tmp_path / "split.json")
    assert done.returncode == 0, done.stderr
    walk_the_chain(tmp_path, photos, Path(trained["concept"]))


def walk_the_chain(folder, photos, concept):
    """Photo to concept to report to decision and back, from the files alone; then the photo is forgotten."""
    policy = folder / "policy.json"
    rules = [{"measure": "certificate", "at_least": 1}, {"measure": "rights", "at_least": 1}]
    policy.write_text(json.dumps({"name": "chain", "rules": rules}), encoding="utf-8")
    decided = folder / "decision.json"
    done = attractor("gate", folder / "report", "--policy", policy, "--out", decided)
    assert done.returncode == 0, done.stderr
    record = check_decision(decided)
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    card = load_concept(concept).run_card
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in photos.glob("*.png")}
    assert record["report_sha256"] == digest({k: v for k, v in report.items() if k not in ("report", "page")})
    assert record["concept_sha256"] == report["concept_sha256"] == load_concept(concept).sha256
    assert record["train_photos"] == sorted(card["train_photos"]) and set(card["train_photos"]) <= set(hashes)
    assert record["split_certificate"] == card["split_certificate"] == report["split_certificate"]
    assert card["rights"]["photos"] == len(card["train_photos"]) and card["rights"]["expires"] == "2099-01-01"
    assert report["rights"][card["train_photos"][0]]["consent"] == "C-17"
    photo = hashes[card["train_photos"][0]]
    done = attractor("forget", photo, "--within", folder, "--yes", "--receipt", folder / "receipt.json")
    assert done.returncode == 0, done.stderr
    assert "split.json" in done.stderr, "named, and left alone"
    for path in (photo, concept, folder / "report" / "report.html", decided, folder / "with" / "0000.png"):
        assert not path.exists(), f"{path} was made of the photo"
    assert (folder / "base" / "0000.png").exists() and len(list(photos.glob("*.png"))) == len(hashes) - 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("split", "nowhere"), "nowhere: no such folder"),
        (("mask", "nowhere", "--out", "x"), "nowhere: no such folder"),
        (("sample", "out", "--prompt", "a <subject>"), "--word"),
        (("train", ".", "--out", "x", "--name", "../y"), "'../y' cannot be used"),
        (("score", "nowhere", "--photos", "x", "--split", "y"), "pictures.json: cannot be read"),
        (("mask", "x"), "--out"),
        (("paint", "x"), "invalid choice"),
    ],
)
def test_errors_are_one_line_and_exit_code_one(arguments, says):
    done = attractor(*arguments)
    assert done.returncode == 1 and says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stdout == ""
