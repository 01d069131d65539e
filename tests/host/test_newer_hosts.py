"""What ComfyUI does since this pack was begun, in the shape that it has there: a 0.38 cannot be had for these tests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.training import demo_assets
from attractor_pack.training.loop import train
from attractor_pack.training.settings import TrainSettings

pytestmark = pytest.mark.host
SHORT = TrainSettings(steps=3, background_steps=3, vectors=2, views=1, resolution=64, batch_size=2)


@pytest.fixture
def loaded(comfy):
    """MODEL, CLIP and VAE as a loader gives them."""
    from attractor_pack.nodes.host import demo

    def load():
        with torch.inference_mode():
            return demo.load()

    return load


@pytest.fixture
def piecewise(loaded):
    """The same by a host with dynamic VRAM: what it gives out must not be computed with while gradients flow."""
    import comfy.model_patcher

    class Piecewise(comfy.model_patcher.ModelPatcher):
        cached_patcher_init = file = None

        def is_dynamic(self):
            return True

        def clone(self, disable_dynamic=False):
            if not disable_dynamic:
                return super().clone()
            copy = self.file().clone()
            copy.patches, copy.patches_uuid = dict(self.patches), self.patches_uuid
            return copy

    def of(patcher, file):
        made = Piecewise(patcher.model, patcher.load_device, patcher.offload_device)
        made.file = made.cached_patcher_init = file
        return made

    def build(from_file=True):
        model, clip, vae = loaded()
        model = of(model, (lambda: loaded()[0]) if from_file else None)
        clip.patcher = of(clip.patcher, (lambda: loaded()[1].patcher) if from_file else None)
        return model, clip, vae

    return build


def learn(model, clip, vae):
    from attractor_pack.nodes.host.model import HostModel

    photos = demo_assets.subject()
    host = HostModel(model, clip, vae)
    with torch.inference_mode():
        concept, _ = train(host, photos.with_photos(photos.photos[:3]), SHORT)
    assert host.patcher is model and host.clip is clip, "afterwards it computes with what is wired"
    return concept


def test_what_is_loaded_piece_by_piece_is_trained_on_a_copy(loaded, piecewise):
    model, clip, vae = piecewise()
    seen = []
    for module in (model.model.diffusion_model, clip.cond_stage_model.clip_l.transformer):
        module.register_forward_hook(lambda *_: seen.append("computed"))
    concept = learn(model, clip, vae)
    assert not seen
    plain = learn(*loaded())
    assert torch.equal(concept.vectors["l"], plain.vectors["l"])
    assert concept.run_card["base_model"] == plain.run_card["base_model"]


def test_a_loader_that_names_no_file_is_explained(piecewise):
    with pytest.raises(AttractorError, match="--disable-dynamic-vram"):
        learn(*piecewise(from_file=False))


def test_memory_that_runs_out_while_it_is_copied_is_the_hosts_to_handle(piecewise):
    model, clip, vae = piecewise()
    model.file = lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        learn(model, clip, vae)


def test_casts_of_weights_are_not_shared_while_gradients_flow(loaded, monkeypatch):
    import comfy.model_management
    from attractor_pack.nodes.host.model import HostModel

    monkeypatch.setattr(comfy.model_management, "NUM_STREAMS", 2)
    monkeypatch.setattr(comfy.model_management, "in_training", False, raising=False)
    host = HostModel(*loaded())
    with host.training(1, 64):
        assert (comfy.model_management.NUM_STREAMS, comfy.model_management.in_training) == (0, True)
    assert (comfy.model_management.NUM_STREAMS, comfy.model_management.in_training) == (2, False)


def test_quantised_weights_are_refused_and_nothing_is_changed(comfy):
    from attractor_pack.nodes.host.borrow import ordinary_weights
    from torch.testing._internal.two_tensor import TwoTensor

    with torch.inference_mode():
        packed = torch.nn.Parameter(TwoTensor(torch.zeros(2, 2), torch.ones(2, 2)), requires_grad=False)
        module = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        module[1].weight = packed
    before = module[0].weight
    with pytest.raises(AttractorError, match="quantised \\(TwoTensor\\)"), ordinary_weights(module):
        pytest.fail("was lent")
    assert module[0].weight is before and module[1].weight is packed


def test_the_hosts_lookup_of_embeddings_may_give_the_name_too(comfy):
    from attractor_pack.nodes.host.text import _embeddings_by_name

    def lookup(name):
        first, _, rest = name.partition(" ")
        return None, first, rest

    vectors = {"l": torch.ones(2, 4)}
    tokenizer = SimpleNamespace(embedding_directory=None, _try_get_embedding=lookup)
    clip = SimpleNamespace(tokenizer=SimpleNamespace(clip_l=tokenizer))
    with _embeddings_by_name(clip, {"attractor-vectors-0": vectors}):
        found, name, rest = tokenizer._try_get_embedding("attractor-vectors-0 on a table")
        assert found is vectors["l"] and (name, rest) == ("attractor-vectors-0", "on a table")
        assert tokenizer._try_get_embedding("other one") == (None, "other", "one")
