"""The whole road through a real server, and what a user does beside it."""

from __future__ import annotations

import json

import pytest
from attractor_pack.tools.graphs import main_road, node
from attractor_pack.tools.host import GraphError, Host

pytestmark = pytest.mark.host

SHORT = {"steps": 20, "background_steps": 10, "views": 2, "vectors": 2}
QUICK = {"steps": 4}
TWO = ("a photo of a <subject> on a red plain background", "a <subject> on a blue tile background")


def short_road(**changes):
    return main_road(training=SHORT, sampler=QUICK, seeds=2, prompts=TWO, **changes)


def test_all_nodes_are_there_under_an_odd_folder_name(server):
    known = {name for name in server.object_info() if name.startswith("Attractor_")}
    assert known == {f"Attractor_{n}" for n in ("LoadSubject", "Split", "Mask", "Train", "SaveConcept", "LoadConcept",
                                               "Prompt", "SampleGrid", "Score", "LoadDemo", "Propose", "Compare",
                                               "Study", "Sweep", "ReleaseGate")}  # fmt: skip


def test_photos_in_scored_concept_out(server):
    graph = short_road(name="road", report="road")
    run = server.queue(graph)
    text = run.outputs["score"]["text"][0]
    assert "similarity to held-out photos" in text and "memorisation gap" in text
    folder = server.base / "output" / "attractor" / "road"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert len(report["pictures"]) == 4 and len(report["held_out_photos"]) == 4 == 9 - len(report["train_photos"])
    assert report["run_card"]["settings"]["steps"] == 20
    assert report["run_card"]["split_certificate"] == report["split_certificate"]
    assert (server.base / "models" / "embeddings" / "road.safetensors").is_file()
    assert any("loss" in t for t in run.texts), "the page saw no live loss"
    assert len(run.previews) >= 2, "the page saw no live curve"
    assert any(v > 1 for v, _ in run.progress)
    again = server.queue(graph)
    assert again.executed == [], "the second queue ran something again"


def test_the_same_settings_give_the_same_embedding(server):
    """Trained twice, bit for bit; previews on the way change nothing."""
    hashes = []
    for name in ("twin-a", "twin-b"):
        graph = short_road(name=name, report="")
        for unused in ("grid", "base", "score", "sheet", "overlay", "curve"):
            graph.pop(unused)
        graph["train"]["inputs"]["preview_every"] = 5 if name == "twin-b" else 0  # also runs again, with previews
        server.queue(graph)
        path = server.base / "models" / "embeddings" / f"{name}.safetensors"
        from attractor_pack.training.concept import load_concept

        hashes.append(load_concept(path).sha256)
    assert hashes[0] == hashes[1]


def test_stock_nodes_read_the_file_as_our_prompt_node_does(server, load_demo, demo, said):
    server.queue(_train_only("stock"))
    for ours, stock in (
        ("a photo of a <subject> on a beach", "a photo of a embedding:stock on a beach"),
        ("<subject>, (red:1.3) curtain", "embedding:stock, (red:1.3) curtain"),
        ("a (<subject>:0.8) and a <subject>", "a (embedding:stock:0.8) and a embedding:stock"),
    ):
        run = server.queue(load_demo(
            concept=node("Attractor_LoadConcept", file="stock.safetensors"),
            ours=node("Attractor_Prompt", model=["demo", 0], clip=["demo", 1], concept=["concept", 0], prompt=ours),
            stock=node("CLIPTextEncode", clip=["demo", 1], text=stock),
            probe=node("Probe_Difference", a=["ours", 1], b=["stock", 0]),
        ))  # fmt: skip
        found = said(run, "probe")
        assert found["difference"] <= 1e-5 < found["size"], (ours, found)


def test_a_seed_gives_its_picture_whatever_the_batch_size(server, load_demo, demo):
    pictures = {}
    for sampler in ("euler", "euler_ancestral"):
        for size in (1, 4):
            grid = {"negative": "", "first_seed": 7, "seeds": 3, "steps": 4, "cfg": 4.0, "sampler_name": sampler,
                    "scheduler": "normal", "width": 64, "height": 64, "class_word": "cup"}  # fmt: skip
            run = server.queue(load_demo(
                grid=node("Attractor_SampleGrid", **demo, prompts="a photo of a <subject>", batch_size=size, **grid),
                out=node("SaveImage", images=["grid", 0], filename_prefix=f"batch{size}"),
            ))  # fmt: skip
            pictures[size] = [_pixels(server, item) for item in run.outputs["out"]["images"]]
        for a, b in zip(pictures[1], pictures[4], strict=True):
            assert abs(a - b).max() <= 1, sampler
        assert abs(pictures[1][0] - pictures[1][1]).max() > 5


def test_grid_pictures_are_the_stock_samplers(server, load_demo, demo):
    """Seed for seed what CLIPTextEncode, KSampler and VAEDecode paint."""
    settings = {"steps": 6, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    run = server.queue(load_demo(
        grid=node("Attractor_SampleGrid", **demo, prompts="a photo of a <subject>", negative="", first_seed=3, seeds=1,
                  width=64, height=64, batch_size=1, class_word="cup", **settings),
        grid_out=node("SaveImage", images=["grid", 0], filename_prefix="ours"),
        positive=node("CLIPTextEncode", clip=["demo", 1], text="a photo of a cup"),
        negative=node("CLIPTextEncode", clip=["demo", 1], text=""),
        latent=node("EmptyLatentImage", width=64, height=64, batch_size=1),
        sampler=node("KSampler", model=["demo", 0], positive=["positive", 0], negative=["negative", 0],
                     latent_image=["latent", 0], seed=3, denoise=1.0, **settings),
        decode=node("VAEDecode", samples=["sampler", 0], vae=["demo", 2]),
        stock_out=node("SaveImage", images=["decode", 0], filename_prefix="stock"),
    ))  # fmt: skip
    ours, stock = (_pixels(server, run.outputs[n]["images"][0]) for n in ("grid_out", "stock_out"))
    assert abs(ours - stock).max() <= 1


def test_photos_of_different_sizes_come_from_a_folder(server, tmp_path, dreambooth):
    from PIL import Image

    folder = tmp_path / "写真 of my dog"
    folder.mkdir()
    for i, name in enumerate(("00.jpg", "01.jpg", "02.jpg")):
        image = Image.open(dreambooth / "dog" / name)
        image.resize((400 + 60 * i, 500 - 90 * i)).save(folder / f"犬 {i}.png")
    run = server.queue({
        "load": node("Attractor_LoadSubject", folder=str(folder), class_word="dog"),
        "mask": node("Attractor_Mask", subject=["load", 0], back_end="saliency", grow=0.0, feather=4.0,
                     fill_holes=True),
        "split": node("Attractor_Split", subject=["mask", 0], held_out=1, split_seed=0),
        "text": node("PreviewAny", source=["split", 2]),
        "verdict": node("PreviewAny", source=["mask", 3]),
        "photos": node("SaveImage", images=["load", 1], filename_prefix="sizes"),
        "overlay": node("SaveImage", images=["mask", 2], filename_prefix="overlays"),
    })  # fmt: skip
    sizes = [_pixels(server, item).shape[:2] for item in run.outputs["photos"]["images"]]
    assert sizes == [(500, 400), (410, 460), (320, 520)]
    assert len(run.outputs["overlay"]["images"]) == 3
    assert "certificate sha256" in run.outputs["text"]["text"][0]
    assert "犬 0.png: " in run.outputs["verdict"]["text"][0]


def test_photos_and_masks_come_from_the_graph(server):
    """IMAGE and MASK of stock nodes, in the place of a folder and of saliency."""
    run = server.queue({
        "images": node("EmptyImage", width=64, height=64, batch_size=2, color=0x336699),
        "masks": node("Probe_Mask", how="good", count=2),
        "load": node("Attractor_LoadSubject", folder="", class_word="cup", images=["images", 0]),
        "mask": node("Attractor_Mask", subject=["load", 0], back_end="external", grow=0.0, feather=0.0,
                     fill_holes=True, masks=["masks", 0]),
        "verdict": node("PreviewAny", source=["mask", 3]),
    })  # fmt: skip
    assert run.outputs["verdict"]["text"][0].splitlines()[0] == "image_00: good (subject covers 25%)"


def test_a_changed_folder_is_read_again_and_an_unchanged_one_is_not(server):
    """LoadSubject sees a changed folder at the next queue; unchanged, it is not read again."""
    folder = server.base / "input" / "watched"
    folder.mkdir()
    from PIL import Image

    def add(i):
        Image.new("RGB", (40, 40), (40 * i, 90, 200 - 30 * i)).save(folder / f"{i}.png")

    add(0)
    graph = {
        "load": node("Attractor_LoadSubject", folder="watched", class_word="cup"),
        "out": node("PreviewImage", images=["load", 1]),
    }
    assert len(server.queue(graph).outputs["out"]["images"]) == 1
    assert server.queue(graph).executed == []
    add(1)
    assert len(server.queue(graph).outputs["out"]["images"]) == 2


@pytest.mark.slow
def test_a_second_server_with_another_name_loads_the_pack(tmp_path):
    with Host(tmp_path, pack_name="attractor.v2 (copy)") as host:
        assert "Attractor_Train" in host.object_info()
        assert "IMPORT FAILED" not in host.log


def test_a_refused_graph_names_the_input(server):
    with pytest.raises(GraphError, match="strength"):
        graph = short_road(name="x", report="")
        graph["train"]["inputs"]["strength"] = 3.0
        server.queue(graph)


def _train_only(name):
    graph = short_road(name=name, report="")
    return {k: v for k, v in graph.items() if k in ("demo", "mask", "split", "train", "save")}


def _pixels(server, item):
    import io

    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(server.fetch_output(item))).convert("RGB")).astype(int)
