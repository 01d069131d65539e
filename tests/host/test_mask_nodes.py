"""Every back end of Attractor Mask, and Propose Settings, through the real server on the demo checkpoint."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from attractor_pack.attractor.masks import Refinement
from attractor_pack.attractor.photo_masks import mask_set
from attractor_pack.attractor.raw_masks import gather
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.training import demo_assets

pytestmark = pytest.mark.host


@pytest.fixture
def masked(server, load_demo, demo):
    """Queue Attractor Mask on the demo subject; gives overlap with the true masks, verdicts, and the run."""

    def masked(back_end, wired=True, more=None, **inputs):
        plain = {"grow": 0.0, "feather": 0.0, "fill_holes": True, "cells": 8}
        run = server.queue(load_demo(
            mask=node("Attractor_Mask", subject=["demo", 3], back_end=back_end, **plain,
                      **(demo if wired else {}), **inputs),
            overlap=node("Probe_Overlap", a=["mask", 0], b=["demo", 3]),
            data=node("PreviewAny", source=["mask", 4]),
            words=node("PreviewAny", source=["mask", 3]),
            overlay=node("SaveImage", images=["mask", 2], filename_prefix=f"masks/{back_end}"),
            **(more or {}),
        ))  # fmt: skip
        said = {name: json.loads(run.outputs[name]["text"][0]) for name in ("overlap", "data")}
        return said["overlap"], said["data"], run

    return masked


def mean(values):
    return sum(values) / len(values)


def test_attention_of_the_loaded_model_finds_its_class_word(masked):
    overlap, data, run = masked("attention")
    print([round(v, 2) for v in overlap])
    assert mean(overlap) > 0.8 and min(overlap) > 0.6
    assert all(found["sources"] == ["attention"] for found in data.values())
    assert len(run.outputs["overlay"]["images"]) == len(overlap)


def test_the_word_draws_attention_to_its_own_thing(comfy):
    """Two things beside one another: each word's map leans to its own more than the other word's does, on the mean of
    twelve pairs. (The demo model has seen few pictures of two things, and leans a little only.)"""
    import numpy as np
    from attractor_pack.attractor.attention import attention_maps
    from attractor_pack.attractor.raw_masks import to_size
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel
    from attractor_pack.tools.world import KINDS, Scene, Thing
    from attractor_pack.tools.world.render import render

    leanings, rng = [], np.random.default_rng(0)
    with torch.inference_mode():
        model = HostModel(*demo.load())
        for _ in range(12):
            words = [str(word) for word in rng.choice(KINDS, 2, replace=False)]
            left, right = (Thing(word, "plain", *colours, x=x, y=0.5, size=0.42) for word, colours, x in
                           zip(words, (("red", "white"), ("blue", "yellow")), (0.28, 0.74), strict=True))  # fmt: skip
            image, at_left = render(Scene(left, "plain", "green", neighbour=right))
            _, at_right = render(Scene(right, "plain", "green", neighbour=left))
            photo = torch.from_numpy(image.copy()).movedim(-1, 0).float() / 255
            first, second = (to_size(attention_maps(model, [photo], word)[0][0], (64, 64)).numpy() for word in words)
            change = first - second
            leanings.append((change * at_left).sum() / at_left.sum() - (change * at_right).sum() / at_right.sum())
    print([round(float(value), 2) for value in leanings])
    assert np.mean(leanings) > 0.02


def test_auto_is_better_than_its_parts_and_says_so(masked):
    alone, _, _ = masked("saliency", wired=False)
    overlap, data, run = masked("auto")
    print("saliency", round(mean(alone), 3), "auto", round(mean(overlap), 3))
    assert mean(overlap) > 0.88 and mean(overlap) >= mean(alone) - 0.01
    assert all(found["sources"] == ["saliency", "attention"] for found in data.values())
    assert sum(found["verdict"] == "good" for found in data.values()) >= 0.8 * len(data)
    assert "auto did without text" in run.outputs["words"]["text"][0]


def test_auto_goes_on_without_a_model(masked):
    overlap, data, run = masked("auto", wired=False)
    assert mean(overlap) > 0.7 and all(found["sources"] == ["saliency"] for found in data.values())
    assert "auto did without attention: The back end 'attention' needs model, clip, vae" in (
        run.outputs["words"]["text"][0]
    )


def test_auto_goes_on_where_one_back_end_cannot(masked):
    """A word that the tokenizer makes nothing of stops 'attention', and 'auto' says so and does without it."""
    overlap, data, run = masked("auto", word="()")
    assert mean(overlap) > 0.7 and all(found["sources"] == ["saliency"] for found in data.values())
    assert "auto did without attention: class_word '()'" in run.outputs["words"]["text"][0]


def test_a_knob_does_not_run_the_models_again(comfy):
    """Only another word does; grow, feather, unit and edges work on what was kept."""
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    with torch.inference_mode():
        model = HostModel(*demo.load())
    looked, original = [], model.attention
    model.attention = lambda *given: looked.append(given[2]) or original(*given)
    photos = demo_assets.subject()

    def masks(word, **knobs):
        sources = gather("attention", {"attention": lambda: model})
        found = mask_set(photos, "attention", Refinement(**knobs), None, sources, {}, word)
        return torch.stack([photo.mask for photo in found.photos])

    first = masks("a cup")
    assert looked and all("a cup" in prompt for prompt in looked)
    count = len(looked)
    assert not torch.equal(masks("a cup", grow=3.0, unit="pixels", edges=2.0), first)
    assert torch.equal(masks("a cup"), first) and len(looked) == count
    masks("the cup")
    assert len(looked) > count


def test_masks_leave_the_model_as_it_was(server, masked, load_demo, demo, said):
    def look(tag):
        return said(server.queue(load_demo(state=node("Probe_State", **demo, tag=tag))), "state")

    masked("attention")
    before = look("before masks")
    masked("attention", word="shoe")
    assert look("after masks") == before


def test_a_click_chooses_one_of_three_toys(server, dreambooth, tmp_path):
    """One photo of three toys: a point, a box and a painted mark each choose one of them; without any, auto says so."""
    shutil.copy(dreambooth.parent / "break-a-scene" / "toys" / "img.jpg", tmp_path / "toys.jpg")

    def look(**inputs):
        run = server.queue({
            "load": node("Attractor_LoadSubject", folder=str(tmp_path), class_word="toy"),
            "mark": node("SolidMask", value=1.0, width=30, height=30),
            "empty": node("SolidMask", value=0.0, width=512, height=512),
            "painted": node("MaskComposite", destination=["empty", 0], source=["mark", 0], x=395, y=330,
                            operation="add"),
            "mask": node("Attractor_Mask", subject=["load", 0], back_end="auto", grow=0.0, feather=0.0,
                         fill_holes=True, **inputs),
            "data": node("PreviewAny", source=["mask", 4]),
        })  # fmt: skip
        return json.loads(run.outputs["data"]["text"][0])["toys.jpg"]

    assert look()["verdict"] == "several objects"
    ball, duck, again = look(clicks="255, 202"), look(clicks="toys: 0.68, 0.53, 0.93, 0.82"), look(masks=["painted", 0])
    assert [found["verdict"] for found in (ball, duck, again)] == ["good"] * 3
    assert ball["share"] == pytest.approx(0.030, abs=0.006) and duck["share"] == pytest.approx(0.077, abs=0.012)
    assert again["share"] == pytest.approx(0.077, abs=0.012)


def test_text_back_end_reads_a_folder_in_the_hosts_models(server, masked, clipseg_folder):
    target = server.base / "models" / "attractor" / "clipseg"
    shutil.copytree(clipseg_folder, target)
    try:
        _, data, _ = masked("text", wired=False)
        assert all(found["sources"] == ["text"] for found in data.values())
    finally:
        shutil.rmtree(target)


def test_propose_gives_settings_with_evidence(server, load_demo, demo):
    settings = {k: v for k, v in TRAINING.items() if k not in ("strength", "preview_every", "preview_prompt")}
    run = server.queue(load_demo(
        propose=node("Attractor_Propose", **demo, train_set=["demo", 3], **settings, pilot_steps=60),
        train=node("Attractor_Train", **demo, train_set=["demo", 3],
                   **{**TRAINING, "steps": 2, "background_steps": 2, "strength": ["propose", 0]}),
        card=node("PreviewAny", source=["train", 2]),
        data=node("PreviewAny", source=["propose", 6]),
        why=node("PreviewAny", source=["propose", 5]),
        chart=node("SaveImage", images=["propose", 4], filename_prefix="propose"),
    ), timeout=400)  # fmt: skip
    data = json.loads(run.outputs["data"]["text"][0])
    card = json.loads(run.outputs["card"]["text"][0])
    print(f"{run.seconds:.0f} s: {data['sentence']}")
    assert card["settings"]["strength"] == data["strength"] and data["floor"] == pytest.approx(1 - data["strength"])
    assert len(data["pilots"]) >= 5 and max(len(p["curve"]) for p in data["pilots"]) == 3
    assert min(len(p["curve"]) for p in data["pilots"]) < 3, "nothing was halved"
    assert data["sentence"] == run.outputs["why"]["text"][0] and "swapped backgrounds" in data["compared_on"]
    assert run.outputs["chart"]["images"] and any("pilots" in text for text in run.texts)
