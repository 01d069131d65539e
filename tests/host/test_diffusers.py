"""The diffusers back end and the host are one model: same context, same latents, same prediction, same file."""

from __future__ import annotations

import pytest
import torch
from attractor_pack.attractor.prompts import SUBJECT
from attractor_pack.training import demo_assets
from attractor_pack.training.concept import Concept, load_concept, save_concept
from attractor_pack.training.loop import train
from attractor_pack.training.settings import TrainSettings

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def both(comfy):
    from attractor_pack.backend.diffusers_model import load
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    return HostModel(*demo.load()), load("demo")


@pytest.fixture(scope="module")
def concept():
    generator = torch.Generator().manual_seed(0)
    return Concept({"l": torch.randn(3, 128, generator=generator) * 0.1}, "cup", {"format": 1})


def test_same_context(both, concept):
    prompt = [f"a photo of a {SUBJECT}, on a red plain background"]
    contexts = [m.encode(prompt, [{SUBJECT: concept.vectors}]).tokens.cpu() for m in both]
    assert contexts[0].abs().max() > 0.5
    assert torch.allclose(*contexts, atol=1e-5)


def test_same_latents_prediction_and_scale(both, concept):
    image = demo_assets.subject().photos[0].pixels[None]
    latents = [m.encode_images(image, 0).cpu() for m in both]
    assert torch.allclose(*latents, atol=1e-4)
    timestep = torch.tensor([10, 500, 990])
    sigma = [m.sigma(timestep) for m in both]
    assert torch.allclose(*sigma, rtol=1e-4)
    noise = torch.randn(3, *latents[0].shape[1:], generator=torch.Generator().manual_seed(0))
    noisy = latents[0] + sigma[0].view(-1, 1, 1, 1) * noise
    guesses = []
    for model in both:
        with model.training(3, 64):
            rows = torch.zeros(3, dtype=torch.long, device=model.device)
            context = model.encode(["a photo of a cup"], [{}]).select(rows)
            guesses.append(model.denoise(noisy.to(model.device), sigma[0].to(model.device), context).detach().cpu())
    assert torch.allclose(*guesses, atol=2e-3)
    assert torch.allclose(*(m.output_scale(sigma[0]) for m in both), rtol=1e-4)


def test_same_attention(both):
    """Layer for layer, self- and cross-attention of the same blocks."""
    image = demo_assets.subject().photos[0].pixels[None].repeat(2, 1, 1, 1)
    found = []
    for model in both:
        latents = model.encode_images(image, 0).cpu()
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        sigma = model.sigma(torch.tensor([100, 400]))
        found.append(model.attention(latents + sigma.view(-1, 1, 1, 1) * noise, sigma, "a photo of a cup", 1024))
    assert [layer.shape for layer in found[0]] == [layer.shape for layer in found[1]] and len(found[0]) == 7
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours.cross.cpu(), theirs.cross.cpu(), atol=2e-3)
        assert torch.allclose(ours.same.cpu(), theirs.same.cpu(), atol=2e-3)
    assert both[0].side == both[1].side == 64


def test_same_training(both):
    """Step for step the same losses from the same seed."""
    settings = TrainSettings(steps=6, background_steps=4, vectors=2, views=1, resolution=64, batch_size=2)
    losses = [[v for _, v in train(m, demo_assets.subject(), settings)[1].losses] for m in both]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_diffusers_own_loader_reads_the_file(both, concept, tmp_path):
    path = save_concept(concept, tmp_path, "rex")
    pipeline = both[1].pipeline
    pipeline.load_textual_inversion(str(path), token="<rex>")
    prompt = pipeline.maybe_convert_prompt("a photo of a <rex> on a beach", pipeline.tokenizer)
    ids = pipeline.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    theirs = pipeline.text_encoder(ids.to(both[1].device))[0].cpu()
    pipeline.unload_textual_inversion()
    ours = both[0].encode([f"a photo of a {SUBJECT} on a beach"], [{SUBJECT: load_concept(path).vectors}]).tokens
    assert torch.allclose(theirs, ours.cpu(), atol=1e-5)
