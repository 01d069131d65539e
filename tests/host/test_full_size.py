"""Full-size SD1.5 and SDXL checkpoints with random weights through the stock loader: trained, saved, loaded again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from attractor_pack.tools.graphs import TRAINING, defaults, node
from attractor_pack.tools.templates.graphs import templates
from attractor_pack.training.concept import load_concept

pytestmark = [pytest.mark.host, pytest.mark.slow, pytest.mark.timeout(1500)]

KINDS = ["sd15", *(["sdxl"] if os.environ.get("ATTRACTOR_TEST_SDXL") else [])]  # SDXL has its own make target


@pytest.fixture(params=KINDS, scope="module")
def checkpoint(server, request):
    """(kind, file name) of a full-size checkpoint in the server's folder for all tests, taken away afterwards."""
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(exist_ok=True)
    path = folder / f"random-{request.param}.safetensors"
    command = [sys.executable, "-P", "-m", "attractor_pack.tools.checkpoints", request.param, str(path)]
    subprocess.run(command, check=True)
    yield request.param, path.name
    path.unlink()


def test_train_save_and_load_again(server, said, checkpoint):
    kind, file = checkpoint

    def loaded(**nodes):
        return {"base": node("CheckpointLoaderSimple", ckpt_name=file), **nodes}

    before = _peak(server.pid)
    settings = {**TRAINING, "steps": 2, "background_steps": 1, "batch_size": 1, "vectors": 2, "resolution": 128,
                "views": 1}  # fmt: skip
    run = server.queue(loaded(
        demo=node("Attractor_LoadDemo"),
        train=node("Attractor_Train", model=["base", 0], clip=["base", 1], vae=["base", 2], train_set=["demo", 3],
                   **settings),
        save=node("Attractor_SaveConcept", concept=["train", 0], name=f"full-{kind}", when_exists="overwrite"),
        card=node("PreviewAny", source=["train", 2]),
    ), timeout=1400)  # fmt: skip
    card = json.loads(run.outputs["card"]["text"][0])
    print(f"{kind}: {run.seconds:.0f} s, peak memory of the server {before:.1f} -> {_peak(server.pid):.1f} GiB")
    assert card["prediction"] == "eps" and len(card["loss"]["train"]) == 2
    (_, first), (_, second) = card["loss"]["train"]
    assert first != second, "no gradient came through the U-Net"
    token = f"embedding:full-{kind}"
    run = server.queue(loaded(
        concept=node("Attractor_LoadConcept", file=f"full-{kind}.safetensors"),
        ours=node("Attractor_Prompt", model=["base", 0], clip=["base", 1], concept=["concept", 0],
                  prompt="a photo of a <subject> on a beach"),
        stock=node("CLIPTextEncode", clip=["base", 1], text=f"a photo of a {token} on a beach"),
        same=node("Probe_Difference", a=["ours", 1], b=["stock", 0]),
        plain=node("CLIPTextEncode", clip=["base", 1], text="a photo of a cup on a beach"),
        differs=node("Probe_Difference", a=["plain", 0], b=["stock", 0]),
    ), timeout=1400)  # fmt: skip
    assert said(run, "same")["difference"] <= 1e-5
    assert said(run, "differs")["difference"] > 1e-3


@pytest.mark.full
def test_layers_of_their_own(server, said, checkpoint):
    """P+ at full size: trained with checkpointing, painted by the stock sampler through its own contexts."""
    kind, file = checkpoint
    settings = {**TRAINING, "steps": 1, "background_steps": 0, "batch_size": 1, "resolution": 128, "views": 1,
                "representation": "XTI", "checkpointing": True, "learning_rate": 0.05}  # fmt: skip
    painted = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    prompt = "a photo of a <subject> on a beach"
    run = server.queue({
        "base": node("CheckpointLoaderSimple", ckpt_name=file),
        "demo": node("Attractor_LoadDemo"),
        "train": node("Attractor_Train", model=["base", 0], clip=["base", 1], vae=["base", 2], train_set=["demo", 3],
                      **settings),
        "save": node("Attractor_SaveConcept", concept=["train", 0], name=f"plus-{kind}", when_exists="overwrite"),
        "ours": node("Attractor_Prompt", model=["base", 0], clip=["base", 1], concept=["train", 0], prompt=prompt),
        "nothing": node("CLIPTextEncode", clip=["base", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "layered": node("KSampler", model=["ours", 0], positive=["ours", 1], negative=["nothing", 0],
                        latent_image=["latent", 0], **painted),
        "plain": node("KSampler", model=["base", 0], positive=["ours", 1], negative=["nothing", 0],
                      latent_image=["latent", 0], **painted),
        "a": node("LatentSubtract", samples1=["layered", 0], samples2=["plain", 0]),
        "difference": node("Probe_Latent", latent=["a", 0]),
    }, timeout=1400)  # fmt: skip
    print(f"{kind}: P+ trained and painted in {run.seconds:.0f} s, peak {_peak(server.pid):.1f} GiB")
    found = said(run, "difference")
    assert found["finite"] and found["largest"] > 1e-4, "the layers saw the plain embedding"
    path = server.base / "models" / "embeddings" / f"plus-{kind}.safetensors"
    assert load_concept(path).representation().layers == {"sd15": 16, "sdxl": 11}[kind]


def test_attention_masks(server, said, checkpoint):
    """Two photos of other proportions than square: masks come out, and other knobs do not run the U-Net again."""
    kind, file = checkpoint

    def queue(**knobs):
        return server.queue({
            "base": node("CheckpointLoaderSimple", ckpt_name=file),
            "a": node("EmptyImage", width=96, height=64, batch_size=2, color=0x336699),
            "load": node("Attractor_LoadSubject", folder="", class_word="cup", images=["a", 0]),
            "mask": node("Attractor_Mask", subject=["load", 0], back_end="attention", grow=0.0, fill_holes=True,
                         model=["base", 0], clip=["base", 1], vae=["base", 2], **knobs),
            "masks": node("MaskToImage", mask=["mask", 1]),
            "out": node("SaveImage", images=["masks", 0], filename_prefix="full-size"),
            "data": node("PreviewAny", source=["mask", 4]),
        }, timeout=1400)  # fmt: skip

    first, second = queue(feather=4.0), queue(feather=8.0)
    print(f"{kind}: attention masks of two photos in {first.seconds:.0f} s, other knobs {second.seconds:.0f} s")
    assert len(first.outputs["out"]["images"]) == 2
    data = json.loads(first.outputs["data"]["text"][0])
    assert all(found["sources"] == ["attention"] for found in data.values())
    assert "mask" in second.executed and second.seconds < 0.3 * first.seconds


def test_its_template_runs_from_photos_to_a_report(server, checkpoint, dreambooth):
    """The template as it is shipped, with three real photos and the file under the name that it asks for; few steps
    and small pictures.
    """
    kind, file = checkpoint
    template = next(t for t in templates() if t.name.startswith({"sd15": "SD1.5", "sdxl": "SDXL"}[kind]))
    (asked,) = (model["name"] for model in template.models)
    checkpoints, photos = server.base / "models" / "checkpoints", server.base / "input" / "my_subject"
    os.link(checkpoints / file, checkpoints / asked)
    photos.mkdir()
    small = {
        "Attractor_Mask": {"back_end": "saliency"},
        "Attractor_Train": {"steps": 2, "background_steps": 1, "views": 1, "resolution": 64},
        "Attractor_SampleGrid": {"prompts": "a <subject>", "seeds": 1, "steps": 1, "width": 64, "height": 64},
    }
    known = server.object_info()
    graph = {name: {**one, "inputs": {**defaults(known[one["class_type"]]), **one["inputs"],
                                      **small.get(one["class_type"], {})}}
             for name, one in template.nodes.items()}  # fmt: skip
    try:
        for path in sorted((dreambooth / "dog").glob("*.jpg"))[:3]:
            shutil.copy(path, photos)
        run = server.queue(graph, timeout=1400)
    finally:
        (checkpoints / asked).unlink()
        shutil.rmtree(photos)
    print(f"{kind}: its template in {run.seconds:.0f} s, peak {_peak(server.pid):.1f} GiB")
    said = " ".join(text for output in run.outputs.values() for text in output.get("text", []))
    assert "00.jpg: good" in said and "held out: " in said and "embedding:my-subject" in said
    assert "Does it look like the subject?" in said


def _peak(pid):
    """Peak resident memory of a process in GiB."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**20
