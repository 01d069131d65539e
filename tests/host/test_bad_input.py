"""Bad input through the real server: a clear message that names it, nothing written, and the server goes on."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess

import pytest
import torch
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.tools.host import GraphError
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.host

SHORT = {**TRAINING, "steps": 2, "background_steps": 2, "views": 1}

PLAIN = {"grow": 0.0, "feather": 0.0, "fill_holes": True}


@pytest.fixture
def refused(server):
    """Queue a graph that must fail; gives its message, after looking that nothing was written."""

    def refused(graph, *parts):
        before = _files(server.base)
        with pytest.raises(GraphError) as error:
            server.queue(graph)
        message = error.value.message
        assert error.value.kind.endswith(("AttractorError", "refused")), f"{error.value.kind}: {message}"
        for part in parts:
            assert part in message, message
        assert "Traceback" not in message and "\n  File" not in message
        assert _files(server.base) == before
        image = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
        server.queue({"image": image, "alive": node("PreviewAny", source=["image", 0])})
        return message

    return refused


def _files(base):
    places = [base / "output", base / "models", base / "input"]
    return {str(p): p.stat().st_mtime_ns for place in places for p in place.rglob("*") if p.is_file()}


def load(folder):
    return {"load": node("Attractor_LoadSubject", folder=str(folder), class_word="dog"),
            "out": node("PreviewImage", images=["load", 1])}  # fmt: skip


def good(path, size=(48, 40), seed=0):
    Image.effect_noise(size, 40 + seed).convert("RGB").save(path)


def test_empty_folder(refused, tmp_path):
    refused(load(tmp_path), str(tmp_path), "no photos")


def test_folder_that_does_not_exist(refused, tmp_path):
    refused(load(tmp_path / "nowhere"), "nowhere", "no such folder")


def test_no_folder_and_no_images(refused):
    refused(load(""), "folder is empty")


@pytest.mark.parametrize("folder", ["../secrets", "a/../../b", "C:\\photos", "photos\0x", "\\\\share\\photos"])
def test_folder_names_that_lead_out(refused, folder):
    refused(load(folder), "folder")


@pytest.mark.parametrize(
    ("name", "kind"), [("cut.jpg", "cut"), ("none.png", "empty"), ("text.jpg", "text"), ("huge.png", "huge")]
)
def test_unreadable_photos(refused, tmp_path, name, kind):
    good(tmp_path / "a.png")
    path = tmp_path / name
    if kind == "huge":
        Image.new("1", (40000, 40000)).save(path)
    elif kind == "cut":
        good(path, (400, 300))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"" if kind == "empty" else b"this is a text")
    refused(load(tmp_path), name)


def test_one_photo_only(refused, tmp_path):
    good(tmp_path / "a.png")
    graph = load(tmp_path)
    graph["split"] = node("Attractor_Split", subject=["load", 0], held_out=1, split_seed=0)
    graph["text"] = node("PreviewAny", source=["split", 2])
    refused(graph, "1 photo", "at least two")


@pytest.mark.parametrize(
    ("how", "count", "says"),
    [("nan", 9, "NaN"), ("zero", 9, "all zero"), ("shape", 9, "64 x 32"), ("good", 2, "2 masks for 9 photos")],
)
def test_masks(refused, load_demo, how, count, says):
    message = refused(load_demo(
        bad=node("Probe_Mask", how=how, count=count),
        mask=node("Attractor_Mask", subject=["demo", 3], back_end="external", grow=0.0, feather=0.0, fill_holes=True,
                  masks=["bad", 0]),
        out=node("PreviewAny", source=["mask", 3]),
    ), says)  # fmt: skip
    assert "photo" in message or ".png" in message


@pytest.mark.parametrize(("how", "verdict"), [("inverted", "looks inverted"), ("full", "covers nearly everything")])
def test_doubtful_masks_get_a_verdict_and_work_goes_on(server, load_demo, how, verdict):
    run = server.queue(load_demo(
        doubtful=node("Probe_Mask", how=how, count=9),
        mask=node("Attractor_Mask", subject=["demo", 3], back_end="external", **PLAIN, masks=["doubtful", 0]),
        out=node("PreviewAny", source=["mask", 3]),
    ))  # fmt: skip
    assert all(f": {verdict} (" in line for line in run.outputs["out"]["text"][0].splitlines())


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"back_end": "attention"}, ("attention", "model, clip, vae")),
        ({"back_end": "attention", "wired": True, "word": "()"}, ("'()'", "no token")),
        ({"back_end": "attention", "wired": True, "model": ["flux", 0]}, ("Flux", "no cross-attention")),
        ({"back_end": "text"}, ("clipseg", "CIDAS/clipseg-rd64-refined", "models")),
        ({"back_end": "saliency", "saliency_model": "birefnet"}, ("BiRefNet-general-epoch_244.onnx", "rembg")),
        ({"back_end": "auto", "clicks": "5000, 3"}, ("'5000, 3'", "outside its photo of 64 x 64")),
        ({"back_end": "auto", "clicks": "rex.png: 1, 1"}, ("'rex.png: 1, 1'", "not in the set")),
        ({"back_end": "auto", "masks": ["mark", 0]}, ("2 marks for 9 photos",)),
    ],
)
def test_masks_that_cannot_be_made(refused, load_demo, demo, inputs, says):
    wired = demo if inputs.pop("wired", False) else {}
    refused(load_demo(
        flux=node("Probe_Flux"),
        mark=node("Probe_Mask", how="good", count=2),
        mask=node("Attractor_Mask", subject=["demo", 3], **PLAIN, **{**wired, **inputs}),
        out=node("PreviewAny", source=["mask", 3]),
    ), *says)  # fmt: skip


@pytest.mark.parametrize("how", ["cut", "other"])
def test_damaged_saliency_files(server, refused, load_demo, how):
    path = server.base / "models" / "attractor" / "u2net.onnx"
    small = (server.base / "models" / "attractor" / "u2netp.onnx").read_bytes()
    path.write_bytes(small[:50_000] if how == "cut" else b"no model at all")
    try:
        refused(load_demo(
            mask=node("Attractor_Mask", subject=["demo", 3], back_end="saliency", saliency_model="u2net", **PLAIN),
            out=node("PreviewAny", source=["mask", 3]),
        ), "u2net.onnx", "not a usable u2net model", "rembg")  # fmt: skip
    finally:
        path.unlink()


def test_a_preview_that_would_not_show_the_concept(refused, load_demo, demo):
    settings = {**SHORT, "preview_every": 1, "preview_prompt": "a photo of a dog"}
    refused(load_demo(
        train=node("Attractor_Train", **demo, train_set=["demo", 3], **settings),
        out=node("PreviewAny", source=["train", 2]),
    ), "preview_prompt 'a photo of a dog' has no <subject>", "preview_every")  # fmt: skip


def test_proposing_without_masks(refused, load_demo, demo):
    settings = {k: v for k, v in SHORT.items() if k not in ("strength", "preview_every", "preview_prompt")}
    refused(load_demo(
        whole=node("Attractor_Mask", subject=["demo", 3], back_end="none", **PLAIN),
        propose=node("Attractor_Propose", **demo, train_set=["whole", 0], **settings, pilot_steps=10),
        out=node("PreviewAny", source=["propose", 5]),
    ), "no masks", "Attractor Mask")  # fmt: skip


def test_what_a_score_lacks_is_said_when_it_is_queued(server, refused, load_demo, demo):
    """A text encoder that reads no text, and saliency without its file."""

    def graph(**inputs):
        return load_demo(
            split=node("Attractor_Split", subject=["demo", 3], held_out=4, split_seed=4),
            grid=node("Attractor_SampleGrid", **demo, prompts="a photo of a <subject>", class_word="cup",
                      negative="", first_seed=1, seeds=1, batch_size=1, steps=1, cfg=1.0, width=64, height=64,
                      sampler_name="euler", scheduler="normal"),
            score=node("Attractor_Score", generations=["grid", 2], report_name="", train_set=["split", 0],
                       held_out_set=["split", 1], **{"image_encoder": "demo-clip", "text_encoder": "none", **inputs}),
        )  # fmt: skip

    refused(graph(text_encoder="demo-dino"), "text_encoder: demo-dino reads no text", "Choose a CLIP")
    model = server.base / "models" / "attractor" / "u2netp.onnx"
    away = model.rename(model.with_suffix(".away"))
    try:
        refused(graph(regions="subject and background too"), "regions:", "u2netp.onnx", "'whole pictures'")
    finally:
        away.rename(model)


@pytest.mark.parametrize(("changed", "inputs"), [
    ("clip", {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["demo", 1], "stop_at_clip_layer": -2}}),
    ("model", {"class_type": "RescaleCFG", "inputs": {"model": ["demo", 0], "multiplier": 0.7}}),
])  # fmt: skip
def test_a_floor_of_another_model(refused, load_demo, demo, changed, inputs):
    """What a stock node changes for the one grid alone would be counted as the concept's."""
    grid = {"prompts": "a photo of a <subject>", "class_word": "cup", "negative": "", "first_seed": 1, "seeds": 1,
            "batch_size": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "width": 64,
            "height": 64}  # fmt: skip
    graph = load_demo(
        split=node("Attractor_Split", subject=["demo", 3], held_out=4, split_seed=4),
        shown=node("Attractor_SampleGrid", **{**demo, changed: ["changed", 0]}, **grid),
        floor=node("Attractor_SampleGrid", **demo, **grid),
        score=node("Attractor_Score", generations=["shown", 2], base_generations=["floor", 2], report_name="",
                   train_set=["split", 0], held_out_set=["split", 1], image_encoder="demo-clip", text_encoder="none"),
    )  # fmt: skip
    refused({**graph, "changed": inputs}, "another model", "same LoRAs and patches")


def test_a_model_without_cross_attention(refused, load_demo, demo):
    refused(load_demo(
        flux=node("Probe_Flux"),
        train=node("Attractor_Train", **{**demo, "model": ["flux", 0]}, train_set=["demo", 3], **SHORT),
        out=node("PreviewAny", source=["train", 2]),
    ), "Flux", "no cross-attention", "SD1.x")  # fmt: skip


def test_a_concept_of_another_width(server, refused, load_demo):
    path = server.base / "models" / "embeddings" / "sd15-size.safetensors"
    save_file({"sd15-size": torch.randn(2, 768)}, path)
    refused(load_demo(
        concept=node("Attractor_LoadConcept", file=path.name),
        prompt=node("Attractor_Prompt", model=["demo", 0], clip=["demo", 1], concept=["concept", 0],
                    prompt="a <subject>"),
        out=node("PreviewAny", source=["prompt", 1]),
    ), "768", "128")  # fmt: skip


@pytest.mark.parametrize(("name", "says"), [("cut", "cut short"), ("keys", "holds"), ("pickled", "pickle")])
def test_damaged_concept_files(server, refused, name, says):
    folder = server.base / "models" / "embeddings"
    path = folder / f"{name}.safetensors"
    if name == "keys":
        save_file({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, path)
    elif name == "cut":
        save_file({"cut": torch.randn(2, 128)}, path)
        path.write_bytes(path.read_bytes()[:-64])
    else:
        path = folder / "pickled.pt"
        path.write_bytes(pickle.dumps({"string_to_param": {"*": [1.0]}}))
    refused({"concept": node("Attractor_LoadConcept", file=path.name),
             "out": node("PreviewAny", source=["concept", 0])}, path.name, says)  # fmt: skip


@pytest.mark.parametrize("name", ["../rex", "C:rex", "re\0x", "my dog", "", "a/b"])
def test_concept_names_that_cannot_be(server, refused, load_demo, name):
    save_file({"plain": torch.randn(2, 128)}, server.base / "models" / "embeddings" / "plain.safetensors")
    refused({
        "concept": node("Attractor_LoadConcept", file="plain.safetensors"),
        "save": node("Attractor_SaveConcept", concept=["concept", 0], name=name, when_exists="refuse"),
    }, "name")  # fmt: skip


def test_two_runs_with_one_name(server, refused):
    folder = server.base / "models" / "embeddings"
    save_file({"first": torch.zeros(2, 128)}, folder / "first.safetensors")
    save_file({"second": torch.ones(2, 128)}, folder / "second.safetensors")
    refused({
        "concept": node("Attractor_LoadConcept", file="second.safetensors"),
        "save": node("Attractor_SaveConcept", concept=["concept", 0], name="first", when_exists="refuse"),
    }, "first.safetensors", "exists", "not lost")  # fmt: skip


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_an_output_folder_that_cannot_take_it(server, refused, kind):
    """A real read-only, and a real full, file system in the place of the embeddings folder."""
    folder = server.base / "models" / "embeddings"
    inside = folder / "mounted"
    inside.mkdir()
    with _disk(inside, kind):
        server_folder = folder.with_name("embeddings-aside")
        folder.rename(server_folder)
        folder.symlink_to(server_folder / "mounted", target_is_directory=True)
        try:
            refused({
                "train": node("Probe_Concept", vectors=60),
                "save": node("Attractor_SaveConcept", concept=["train", 0], name="big", when_exists="refuse"),
            }, "big.safetensors", "cannot be written", "Read-only" if kind == "read-only" else "No space left")
        finally:
            folder.unlink()
            server_folder.rename(folder)
    inside.rmdir()


@contextlib.contextmanager
def _disk(folder, kind):
    """A small file system of its own at `folder`: mounted where we are root, as on the CI machine."""
    if os.geteuid() != 0:
        if kind == "full":  # only root may mount; /dev/full stands for it in the unit tests
            (pytest.fail if os.environ.get("CI") else pytest.skip)("this test mounts a small disk and needs root")
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    option = "ro,size=64k" if kind == "read-only" else "size=8k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_held_out_photo_that_was_trained_on(refused, dreambooth, load_demo, demo):
    grid = {"prompts": "a <subject>", "negative": "", "first_seed": 0, "seeds": 1, "steps": 1, "cfg": 1.0,
            "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64, "batch_size": 1}  # fmt: skip
    cat = node("Attractor_LoadSubject", folder=str(dreambooth / "cat"), class_word="cat")
    refused(load_demo(
        cat=cat,
        grid=node("Attractor_SampleGrid", **demo, class_word="cat", **grid),
        score=node("Attractor_Score", generations=["grid", 2], train_set=["cat", 0], held_out_set=["cat", 0],
                   image_encoder="efficientnet-lite0", text_encoder="none", report_name=""),
    ), "near-duplicate of train photo")  # fmt: skip


def test_a_prompt_without_the_subject(server, refused, load_demo):
    save_file({"plain": torch.randn(2, 128)}, server.base / "models" / "embeddings" / "plain.safetensors")
    refused(load_demo(
        concept=node("Attractor_LoadConcept", file="plain.safetensors"),
        prompt=node("Attractor_Prompt", model=["demo", 0], clip=["demo", 1], concept=["concept", 0], prompt="a dog"),
        out=node("PreviewAny", source=["prompt", 1]),
    ), "<subject>")  # fmt: skip


def test_an_encoder_that_is_not_here_is_fetched_only_when_told_to(server, refused, load_demo, demo):
    """Size and licence are said when the graph is queued; this host is started offline, so nothing comes."""
    grid = {"prompts": "a <subject>", "negative": "", "first_seed": 0, "seeds": 1, "steps": 1, "cfg": 1.0,
            "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64, "batch_size": 1}  # fmt: skip
    scored = {"generations": ["grid", 2], "train_set": ["demo", 3], "held_out_set": ["demo", 3],
              "image_encoder": "dinov2-small", "text_encoder": "none", "report_name": ""}  # fmt: skip
    graph = load_demo(grid=node("Attractor_SampleGrid", **demo, class_word="cup", **grid))
    refused({**graph, "score": node("Attractor_Score", **scored)}, "88 MB, licence Apache-2.0, from huggingface.co")
    wired = {**graph, "yes": node("PrimitiveBoolean", value=True)}
    for told, more in ((True, graph), (["yes", 0], wired)):
        refused({**more, "score": node("Attractor_Score", **scored, download=told)}, "offline mode is enabled")
    assert not (server.base / "models" / "attractor" / "dinov2-small").exists()
