"""One real server for the whole run, under a folder name with a space and Japanese in it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers and their servers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from attractor_pack.tools.graphs import node
from attractor_pack.tools.host import Host, fetch
from attractor_pack.tools.models import link_into
from attractor_pack.training import demo_assets

TESTS = Path(__file__).parent
PACK_NAME = "アトラクター pack"


LONG = (
    "studio/test_sweep.py",
    "host/test_full_size.py",
    "browser/test_panels.py",
    "browser/test_templates.py",
    "host/test_resume.py",
    "browser/test_newest_front_end.py",
    "host/test_sweep_node.py",
    "host/test_memory.py",
)


def pytest_collection_modifyitems(items):
    """Long files first, unit tests last: a worker that were left with a long one would keep the other waiting."""

    def place(item):
        file = Path(item.path).relative_to(TESTS).as_posix()
        return LONG.index(file) if file in LONG else len(LONG) + file.startswith("unit/")

    items.sort(key=place)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI with the pack and the probe nodes."""
    base = tmp_path_factory.mktemp("comfy host")
    link_into(base)
    with Host(base, pack_name=PACK_NAME, extra_packs=(TESTS / "probe_pack",)) as host:
        yield host


@pytest.fixture(scope="session")
def comfy():
    """ComfyUI's modules in this process, on the CPU where there is no GPU."""
    path = str(fetch())
    if path not in sys.path:
        sys.path.append(path)
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import comfy.model_management

    return comfy


@pytest.fixture(scope="session")
def dreambooth():
    """Real photos: the folder beside the checkout, or DREAMBOOTH_PHOTOS."""
    folder = Path(os.environ.get("DREAMBOOTH_PHOTOS", TESTS.parent.parent / "shared" / "data" / "dreambooth"))
    assert folder.is_dir(), f"{folder} is not there: set DREAMBOOTH_PHOTOS to the photos of the DreamBooth data set"
    return folder


@pytest.fixture
def demo():
    """Inputs of a node that takes the demo model."""
    return {"model": ["demo", 0], "clip": ["demo", 1], "vae": ["demo", 2]}


@pytest.fixture
def said():
    """The JSON that a probe node wrote."""
    return lambda run, name: json.loads(run.outputs[name]["text"][0])


@pytest.fixture
def load_demo():
    """A graph with the demo loader in it."""
    return lambda **nodes: {"demo": node("Attractor_LoadDemo"), **nodes}


@pytest.fixture
def clipseg_folder(tmp_path):
    """A tiny CLIPSeg with random weights, saved as transformers saves it."""
    import torch
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**small, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407},
        vision_config={**small, "image_size": 64, "patch_size": 16}, projection_dim=32, reduce_dim=16,
        extract_layers=[0, 1, 2], decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path / "clipseg"
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    for file in (demo_assets.ASSETS / "tokenizer").iterdir():
        shutil.copy(file, folder)
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 96, "width": 96}}', encoding="utf-8")
    return folder
