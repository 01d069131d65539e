"""Representations: NeTI line by line against its paper, P+ in its two halves, and the files of all."""

from __future__ import annotations

import base64
import json

import pytest
import torch
import torch.nn.functional as F
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.prompts import SUBJECT
from attractor_pack.backend.diffusers_model import load
from attractor_pack.training.concept import Concept, load_concept, save_concept
from attractor_pack.training.contexts import Row, encode_words
from attractor_pack.training.representations import (
    ExtendedTextualInversion,
    NeuralMapper,
    TextualInversion,
    build,
    restore,
)
from safetensors import safe_open
from safetensors.torch import save_file

WORD = {"l": torch.full((1, 768), 0.02)}
NAME = "a photo of a <subject>, red"


def neti(layers=16, width=768, seed=0):
    return NeuralMapper({"l": torch.tensor(0.4)}, {"l": width}, layers, seed)


@pytest.fixture(scope="module")
def demo():
    return load("demo")


def test_neti_has_the_papers_number_of_parameters():
    mapper = neti()
    assert sum(p.numel() for group in mapper.groups(5e-3, {}) for p in group["params"]) == 563_616


def test_neti_encodes_timestep_and_layer_in_random_fourier_features():
    mapper = neti()
    assert mapper.directions.shape == (1024, 2)
    assert mapper.directions.std(0).tolist() == pytest.approx([0.03, 2.0], rel=0.1)
    found = mapper.encoding(torch.tensor([730.0]), torch.tensor([5]))[0]
    angles = mapper.directions.double() @ torch.tensor([730.0, 5.0], dtype=torch.float64)
    expected = torch.cat([angles.sin(), angles.cos()]) / 1024**0.5
    assert torch.allclose(found.double(), expected, atol=1e-4) and float(found.norm()) == pytest.approx(1, abs=1e-5)


def test_neti_starts_from_the_encodings_of_ten_timesteps_and_all_layers():
    mapper = neti()
    weight = mapper.net[0].weight
    assert weight.shape == (160, 2048)
    expected = mapper.encoding(torch.tensor([300.0]), torch.tensor([7]))[0]
    assert torch.allclose(weight[3 * 16 + 7], expected, atol=1e-5)


def test_neti_has_two_normalised_layers_of_128_behind_it():
    kinds = [type(layer).__name__ for layer in neti().net]
    assert kinds == ["Linear", "Linear", "LayerNorm", "LeakyReLU", "Linear", "LayerNorm", "LeakyReLU"]
    assert [neti().net[i].out_features for i in (1, 4)] == [128, 128]


def test_neti_scales_its_vector_to_the_class_words_norm():
    words = build("NeTI", {}, {"l": torch.tensor([[3.0] * 8, [1.0] * 8])}, 4, 0).eval()(torch.tensor([10, 900]))
    assert words.vectors["l"].shape == (2, 4, 1, 8) and words.bypass["l"].shape == (2, 4, 8)
    assert torch.allclose(words.vectors["l"].norm(dim=-1), torch.full((2, 4, 1), 2 * 8**0.5), rtol=1e-4)


def test_neti_drops_a_tail_of_the_hidden_layer_in_half_of_the_steps():
    mapper = neti(layers=3, width=8).train()
    mapper.generator = torch.Generator().manual_seed(0)
    hidden, whole, cuts = torch.ones(40, 128), 0, []
    for _ in range(200):
        kept = mapper._truncated(hidden)
        if (kept == 1).all():
            whole += 1
            continue
        count = kept.sum(1)
        assert (kept == (torch.arange(128) < count[:, None])).all(), "not a prefix"
        cuts += count.tolist()
    assert 75 <= whole <= 125
    assert abs(sum(cuts) / len(cuts) - 63.5) < 3 and min(cuts) == 0 and max(cuts) == 127


def test_the_truncation_knob_keeps_the_first_hidden_units():
    mapper = neti(layers=3, width=8).eval()
    whole = mapper(torch.tensor([500])).vectors["l"]
    mapper.truncation = 16
    cut = mapper(torch.tensor([500])).vectors["l"]
    with torch.no_grad():
        mapper.truncation = 0
        mapper.heads["l"].weight[:, 16:] = 0
    assert not torch.allclose(whole, cut, atol=1e-4)
    assert torch.allclose(mapper(torch.tensor([500])).vectors["l"], cut, atol=1e-6)


def test_neti_gives_keys_the_plain_state_and_values_the_bypass(demo):
    mapper = NeuralMapper({"l": torch.tensor(0.4)}, demo.widths, demo.layers).eval()
    words = mapper(torch.tensor([400.0]))
    with torch.no_grad():
        found = encode_words(demo.encode, [Row(NAME)], words)
        encoder = demo.pipeline.text_encoder
        norm = next(m for n, m in encoder.named_modules() if n.endswith("final_layer_norm"))
        for layer in range(demo.layers):
            plain = demo.encode([NAME], [{SUBJECT: {"l": words.vectors["l"][0, layer]}}]).tokens[0]
            assert torch.allclose(found.tokens[0, layer], plain, atol=1e-5)
            moved = (found.values[0, layer] - plain).abs().amax(-1) > 1e-5
            assert moved.nonzero().flatten().tolist() == [5], "the bypass acts elsewhere than at the subject's word"
        # before the last layer norm: h + .2 b / |b| |h|
        kept = []
        handle = norm.register_forward_hook(lambda _m, given, _o: kept.append(given[0]))
        demo.encode([NAME], [{SUBJECT: {"l": words.vectors["l"][0, 2]}}])
        handle.remove()
        h, b = kept[0][0, 5], words.bypass["l"][0, 2]
        expected = norm(h + 0.2 * b / b.norm() * h.norm())
    assert torch.allclose(found.values[0, 2, 5], expected, atol=1e-5)


def test_layers_are_counted_down_middle_up(demo):
    from attractor_pack.backend.diffusers_model import _layer_names

    names = _layer_names(demo.pipeline.unet)
    places = [name.split("_")[0] for name in names]
    assert places == ["down"] * places.count("down") + ["mid"] + ["up"] * places.count("up")
    assert demo.layers == len(names) == 7
    assert names == sorted(names, key=lambda n: (["down", "mid", "up"].index(n.split("_")[0]), n))


def test_plus_shares_one_set_first_and_parts_by_layer_later():
    start = {"l": torch.randn(2, 8, generator=torch.Generator().manual_seed(0))}
    plus = ExtendedTextualInversion(start, 5)
    rates = [group["lr"] for group in plus.groups(5e-3, {"l": 0.0139})]
    assert rates == pytest.approx([5e-3, 5e-3 / 3])
    plus.begin(10, 20)
    assert plus(torch.tensor([3])).vectors["l"].shape == (1, 1, 2, 8)
    plus(torch.tensor([3])).vectors["l"].sum().backward()
    assert plus.coarse["l"].grad is not None and plus.offsets["l"].grad is None
    plus.begin(11, 20)
    assert plus(torch.tensor([3])).vectors["l"].shape == (1, 5, 2, 8)
    plus.coarse["l"].grad = None
    plus(torch.tensor([3])).vectors["l"][0, 2].sum().backward()
    assert plus.coarse["l"].grad is None
    assert plus.offsets["l"].grad.abs().sum((1, 2)).nonzero().flatten().tolist() == [2]
    assert torch.equal(plus.plain()["l"], start["l"])


@pytest.mark.parametrize("kind", ["XTI", "NeTI"])
def test_a_file_holds_the_representation_and_one_tensor_that_everyone_reads(kind, tmp_path):
    made = build(kind, {"l": torch.randn(3, 768)}, WORD, 16, 0)
    if kind == "XTI":
        made.begin(2, 2)
        torch.nn.init.normal_(made.offsets["l"])
    plain = {k: v.detach() for k, v in made.plain().items()}
    concept = Concept(plain, "cup", {"format": 1}, kind, made.state_dict())
    path = save_concept(concept, tmp_path, "mug")
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["mug"] and torch.equal(file.get_tensor("mug"), plain["l"])
    found = load_concept(path)
    assert found.kind == kind and found.sha256 == concept.sha256 != Concept(plain, "cup").sha256
    at = torch.tensor([120, 860])
    assert torch.equal(found.representation()(at).vectors["l"], made.eval()(at).vectors["l"])
    with pytest.raises(AttractorError, match=r"16 layers of cross-attention, but this MODEL has 11"):
        found.check_fits({"l": 768}, 11, "this MODEL")


def test_sdxl_has_a_head_for_each_encoder():
    word = {"l": torch.ones(1, 768), "g": torch.ones(2, 1280)}
    words = build("NeTI", {}, word, 11, 0).eval()(torch.tensor([500]))
    assert words.vectors["l"].shape == (1, 11, 1, 768) and words.vectors["g"].shape == (1, 11, 1, 1280)
    assert float(words.vectors["g"][0, 3, 0].norm()) == pytest.approx(1280**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("part", "message"),
    [("cut", "NeTI part is damaged|deserializing"), ("nan", "NaN"), ("kind", "'LoRA' is not known"), ("text", "Copy")],
)
def test_a_damaged_representation_is_refused(part, message, tmp_path):
    state = neti(layers=2, width=8).state_dict()
    if part == "nan":
        state["net.1.bias"][3] = float("nan")
    if part == "cut":
        del state["net.1.bias"]
    concept = Concept({"l": torch.zeros(1, 8)}, "cup", {}, "NeTI", state)
    path = save_concept(concept, tmp_path, "mug")
    if part in ("kind", "text"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        if part == "kind":
            metadata["attractor"] = json.dumps({**json.loads(metadata["attractor"]), "representation": "LoRA"})
        else:
            metadata["attractor_representation"] = base64.b64encode(b"no tensors at all").decode()
        save_file({"mug": torch.zeros(1, 8)}, path, metadata)
    with pytest.raises(AttractorError, match=rf"mug\.safetensors.*({message})"):
        load_concept(path)


def test_the_seed_decides_the_network():
    a, b, c = (neti(layers=2, width=8, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["directions"], c["directions"])
    assert not torch.equal(a["net.1.weight"], c["net.1.weight"])


def test_restoring_textual_inversion():
    made = TextualInversion({"l": torch.randn(2, 8), "g": torch.randn(2, 12)})
    found = restore("TI", made.state_dict())
    assert all(torch.equal(F.normalize(found.plain()[k]), F.normalize(made.plain()[k])) for k in ("l", "g"))


def test_the_pipeline_paints_with_each_layers_own_context(demo):
    """Equal layers paint the plain embedding's picture, so the rows of both prompts are told apart; others do not."""
    start = {k: rows.repeat(2, 1) for k, rows in demo.words("cup").items()}
    pictures = []
    for spread in (None, 0.0, 0.05):
        made = build("XTI", start, start, demo.layers, 0)
        made.begin(2, 2)
        for offset in made.offsets.values():
            offset.data = torch.randn(offset.shape, generator=torch.Generator().manual_seed(2)) * (spread or 0)
        kind, state = ("TI", {}) if spread is None else ("XTI", made.state_dict())
        concept = Concept({k: v.detach() for k, v in made.plain().items()}, "cup", {}, kind, state)
        made = demo.sample(concept, "", [NAME], [3], 3, 4.0, 64)
        pictures.append(made.images[0])
    assert torch.allclose(pictures[0], pictures[1], atol=1e-3)
    assert (pictures[0] - pictures[2]).abs().max() > 0.05


def test_the_pipeline_cuts_netis_hidden_units(demo):
    word = demo.words("cup")
    state = build("NeTI", {}, word, demo.layers, 0).state_dict()
    concept = Concept({k: v.clone() for k, v in word.items()}, "cup", {}, "NeTI", state)
    whole, again, cut = (demo.sample(concept, "", [NAME], [3], 3, 4.0, 64, truncation=t).images for t in (0, 128, 4))
    assert torch.equal(whole, again) and (whole - cut).abs().max() > 0.02
