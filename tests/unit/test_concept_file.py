"""Concept files: what is written is read, by others too; damaged and foreign ones are refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.files import write_beside
from attractor_pack.training.concept import Concept, check_name, load_concept, save_concept
from safetensors import safe_open
from safetensors.torch import save_file


def concept(seed=0, **widths):
    generator = torch.Generator().manual_seed(seed)
    vectors = {key: torch.randn(2, width, generator=generator) for key, width in (widths or {"l": 768}).items()}
    return Concept(vectors, "dog", {"format": 1, "seconds": 1.5})


def test_sd1_file_is_one_tensor_under_the_token(tmp_path):
    path = save_concept(concept(), tmp_path, "rex")
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["rex"] and file.get_tensor("rex").shape == (2, 768)
        card = json.loads(file.metadata()["attractor"])
    assert card["class_word"] == "dog" and card["encoders"] == {"l": [2, 768]}
    loaded = load_concept(path)
    assert loaded.class_word == "dog" and torch.equal(loaded.vectors["l"], concept().vectors["l"])


def test_sdxl_file_has_both_encoders(tmp_path):
    path = save_concept(concept(l=768, g=1280), tmp_path, "rex")
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == ["clip_g", "clip_l"]
    assert load_concept(path).sha256 == concept(l=768, g=1280).sha256


def test_other_programs_files_are_read(tmp_path):
    save_file({"emb_params": torch.randn(3, 768)}, tmp_path / "a.safetensors")
    save_file({"<cat>": torch.randn(1024)}, tmp_path / "b.safetensors")
    assert load_concept(tmp_path / "a.safetensors").vectors["l"].shape == (3, 768)
    assert load_concept(tmp_path / "b.safetensors").vectors["h"].shape == (1, 1024)


def test_two_runs_with_one_name(tmp_path):
    first = save_concept(concept(0), tmp_path, "rex")
    before = first.read_bytes()
    assert save_concept(concept(0), tmp_path, "rex") == first
    with pytest.raises(AttractorError, match=r"rex\.safetensors.*exists"):
        save_concept(concept(1), tmp_path, "rex")
    assert first.read_bytes() == before
    assert save_concept(concept(1), tmp_path, "rex", "number").name == "rex-2.safetensors"
    assert save_concept(concept(1), tmp_path, "rex", "number").name == "rex-2.safetensors", "the same vectors again"
    save_concept(concept(1), tmp_path, "rex", "overwrite")
    assert load_concept(first).sha256 == concept(1).sha256


def test_a_loaded_file_is_free_to_be_replaced(tmp_path):
    """On Windows a file that is still mapped into memory cannot be written over."""
    path = save_concept(concept(2), tmp_path, "rex")
    found = load_concept(path)
    assert str(path) not in Path("/proc/self/maps").read_text() and found.vectors


@pytest.mark.parametrize(
    "name", ["", "../rex", "a/b", "a\\b", "C:rex", "re\0x", "my dog", "rex,", ".hidden", "CON", "x" * 300]
)
def test_names_that_cannot_be(name, tmp_path):
    with pytest.raises(AttractorError, match="name"):
        save_concept(concept(), tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rex", "my-dog_2", "犬", "rex.v2", "rex.safetensors"])
def test_names_that_can_be(name):
    assert check_name(name) == name.removesuffix(".safetensors")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("opened-a-pickle",)


def test_damaged_foreign_and_pickled_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = save_concept(concept(), tmp_path, "rex").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Bomb()))
    save_file({"a": torch.randn(2, 2), "b": torch.randn(2), "c": torch.ones(1)}, tmp_path / "keys.safetensors")
    save_file({"lora": torch.randn(4, 4, 3, 3)}, tmp_path / "shape.safetensors")
    save_file({"x": torch.full((2, 768), float("nan"))}, tmp_path / "nan.safetensors")
    for name, says in (("cut.safetensors", "cut short"), ("pickle.safetensors", "pickle"), ("old.pt", "pickles"),
                       ("keys.safetensors", "holds a, b, c"), ("shape.safetensors", "no embedding"),
                       ("nan.safetensors", "NaN"), ("none.safetensors", "no such")):  # fmt: skip
        with pytest.raises(AttractorError, match=says) as error:
            load_concept(tmp_path / name)
        assert name in str(error.value)
    assert not (tmp_path / "opened-a-pickle").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """/dev/full answers every write as a full disk does."""
    target = tmp_path / "rex.safetensors"
    target.write_text("old", encoding="utf-8")

    def write(_path):
        with open("/dev/full", "w", encoding="utf-8") as file:
            file.write("x" * 100_000)

    with pytest.raises(AttractorError, match="No space left"):
        write_beside(target, write)
    assert [p.name for p in tmp_path.iterdir()] == ["rex.safetensors"]
    assert target.read_text(encoding="utf-8") == "old"


def test_widths_are_compared_in_words():
    with pytest.raises(AttractorError, match=r"width 768 \(l\).*takes 1280 \(g\), 768 \(l\)"):
        concept().check_fits({"l": 768, "g": 1280}, None, "this CLIP")
