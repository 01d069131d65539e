"""Encoders that are fetched when told to: from a hub on this machine, through the hub's own client."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from attractor_pack.metrics.encoders import load_encoder
from attractor_pack.metrics.weights import KNOWN

pytestmark = pytest.mark.slow  # each starts the command, and the hub's client, anew
NAME = "dinov2-small"


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for: what a repository holds, and its files. cut: bytes that are sent."""

    def __init__(self, folder, cut, *more):
        self.folder, self.cut = folder, cut
        super().__init__(*more)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        told = {"X-Repo-Commit": "a" * 40}
        if self.path.startswith("/api/models/"):
            files = [{"rfilename": p.name, "size": p.stat().st_size, "blobId": "0", **self._lfs(p)}
                     for p in sorted(self.folder.iterdir())]  # fmt: skip
            data = json.dumps({"id": KNOWN[NAME].repository, "sha": "a" * 40, "siblings": files}).encode()
            sent = len(data)
        else:
            path = self.folder / self.path.rsplit("/", 1)[1]
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            sent = self.cut if self.cut is not None and path.name.endswith("tensors") else len(data)
            told["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        self.send_response(200)
        for key, value in (*told.items(), ("Content-Length", str(len(data)))):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:sent])

    def _lfs(self, path):
        if path.suffix != ".safetensors":
            return {}
        said = (self.folder.parent / "said").read_text() if (self.folder.parent / "said").exists() else ""
        sha256 = said or hashlib.sha256(path.read_bytes()).hexdigest()
        return {"lfs": {"sha256": sha256, "size": path.stat().st_size, "pointerSize": 130}}

    def log_message(self, *_):
        pass


@pytest.fixture
def repository(tmp_path):
    """A DINOv2 with random weights, as transformers saves it."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path / "repository"
    small = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(small).save_pretrained(folder)
    norm = {"do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    kind = {"image_processor_type": "BitImageProcessor", "do_resize": True, "do_center_crop": True, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**norm, **size, **kind}))
    (folder / "README.md").write_text("not asked for")
    return folder


@pytest.fixture
def hub(repository):
    """Gives the address of a hub that holds the repository, and sends so many bytes of its weights."""
    servers = []

    def start(cut=None):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, repository, cut))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()


def python(*arguments, hub, home):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    return subprocess.run([sys.executable, "-P", *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=environment | {"HF_ENDPOINT": hub, "HF_HOME": str(home)})  # fmt: skip


def attractor(*arguments, **where):
    return python("-m", "attractor_pack.cli.main", *arguments, **where)


def test_an_encoder_is_fetched_whole_and_after_its_licence_was_said(hub, repository, tmp_path):
    models = tmp_path / "models"
    listed = attractor("encoders", "--models", models, hub=hub(), home=tmp_path / "home")
    assert json.loads(listed.stdout)["encoders"][NAME].startswith("88 MB, licence Apache-2.0")
    assert not models.exists(), "listing fetches nothing"
    ended = attractor("encoders", NAME, "--models", models, hub=hub(), home=tmp_path / "home")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith(f"{NAME}: 88 MB, licence Apache-2.0")
    assert sorted(p.name for p in models.iterdir()) == [NAME]
    assert sorted(p.name for p in (models / NAME).iterdir()) == sorted(KNOWN[NAME].files)
    from transformers import AutoModel

    image = torch.rand(1, 3, 28, 28)
    encoder = load_encoder(NAME, [models])
    wanted = AutoModel.from_pretrained(repository)(pixel_values=encoder._preprocessing(image)).last_hidden_state[:, 0]
    found = encoder.images(image)
    assert torch.allclose(found, torch.nn.functional.normalize(wanted, dim=-1), atol=1e-5)


@pytest.mark.parametrize(("cut", "said", "says"), [(1000, "", "damaged"), (None, "0" * 64, "damaged")])
def test_a_fetch_that_breaks_off_or_brings_something_else_keeps_nothing(hub, repository, tmp_path, cut, said, says):
    if said:
        (repository.parent / "said").write_text(said)
    ended = attractor("encoders", NAME, "--models", tmp_path / "models", hub=hub(cut), home=tmp_path / "home")
    assert ended.returncode == 1 and says in ended.stderr and "Nothing was kept" in ended.stderr
    assert "Traceback" not in ended.stderr and not list((tmp_path / "models").iterdir())


def test_a_repository_without_the_file_and_a_hub_that_is_not_there_are_said(hub, repository, tmp_path):
    (repository / "model.safetensors").unlink()
    for address, says in ((hub(), "the repository has no model.safetensors"), ("http://127.0.0.1:9", "could not be")):
        ended = attractor("encoders", NAME, "--models", tmp_path / "models", hub=address, home=tmp_path / "home")
        assert ended.returncode == 1 and says in ended.stderr and "Traceback" not in ended.stderr
    ended = attractor("encoders", "dinov9", hub=address, home=tmp_path / "home")
    assert ended.returncode == 1 and "'dinov9' is not known. There are: ViT-B-32_openai" in ended.stderr


def test_what_another_program_fetched_into_the_hubs_cache_is_used_where_it_lies(hub, repository, tmp_path):
    home, models = tmp_path / "home", tmp_path / "models"
    code = ("from huggingface_hub import hf_hub_download\n"
            f"for file in {KNOWN[NAME].files!r}: hf_hub_download({KNOWN[NAME].repository!r}, file)")  # fmt: skip
    ended = python("-c", code, hub=hub(), home=home)
    assert ended.returncode == 0, ended.stderr
    (models / NAME).mkdir(parents=True)  # empty, as a clone that broke off leaves it
    ended = attractor("encoders", NAME, "--models", models, hub="http://127.0.0.1:9", home=home)
    path = json.loads(ended.stdout)["encoders"][NAME]
    assert path.startswith(str(home)) and not list((models / NAME).iterdir())
    code = f"""if True:
        from pathlib import Path
        import torch
        from attractor_pack.metrics.encoders import load_encoder
        print(load_encoder({NAME!r}, [Path({str(models)!r})]).images(torch.rand(2, 3, 40, 40)).shape)
    """
    ended = python("-c", code, hub="http://127.0.0.1:9", home=home)
    assert ended.stdout.strip() == "torch.Size([2, 32])", ended.stderr


def test_a_fetch_is_stopped_by_whoever_watches_and_keeps_nothing(hub, tmp_path):
    """As the host's Cancel does it."""
    models = tmp_path / "models"
    code = f"""if True:
        from pathlib import Path
        from attractor_pack.metrics.weights import KNOWN, fetch
        class Cancel(Exception): pass
        def watch(done, total):
            if list(Path({str(models)!r}).glob(".*.part/whole/config.json")): raise Cancel
        try:
            fetch(KNOWN[{NAME!r}], Path({str(models)!r}), watch)
        except Cancel:
            print("stopped")"""
    ended = python("-c", code, hub=hub(), home=tmp_path / "home")
    assert ended.stdout.strip() == "stopped", ended.stderr
    assert not list(models.iterdir())
