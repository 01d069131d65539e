"""The gradient to a token through the host's text encoder and U-Net, for weights in every precision."""

from __future__ import annotations

import copy

import pytest
import torch
from attractor_pack.attractor.prompts import BACKGROUND, SUBJECT
from attractor_pack.training import demo_assets
from attractor_pack.training.loop import train
from attractor_pack.training.objective import fixed_draws, loss
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.views import make_views

pytestmark = pytest.mark.host

SHORT = TrainSettings(steps=3, background_steps=3, vectors=2, views=1, resolution=64, batch_size=2)


@pytest.fixture
def host_model(comfy):
    """The demo model as a server would have it: loaded under inference mode; `dtype` of the stored weights."""
    import comfy.ops
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    def build(dtype=torch.float32):
        with torch.inference_mode():
            model, clip, vae = demo.load()
            if dtype != torch.float32:
                _store_as(model.model.diffusion_model, dtype, comfy.ops)
                model.model.manual_cast_dtype = torch.float32
                _store_as(clip.cond_stage_model, dtype, comfy.ops)
        return HostModel(model, clip, vae)

    return build


def _store_as(module, dtype, ops):
    """Weights of linears and convolutions in another precision, cast at each call as the host casts them."""
    for child in module.modules():
        if isinstance(child, ops.CastWeightBiasOp) and getattr(child, "weight", None) is not None:
            child.weight = torch.nn.Parameter(child.weight.detach().to(dtype), requires_grad=False)
            child.comfy_cast_weights = True


def _loss_of(model, views, draws, backgrounds=()):
    return lambda subject: loss(model, views, draws, subject, backgrounds, 1.0, "subject").mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn], ids=str)
def test_gradient_agrees_with_finite_differences(host_model, dtype):
    model = host_model(dtype)
    photos = demo_assets.subject()
    with torch.inference_mode(), model.training(4, 64):
        with torch.no_grad():
            views = make_views(model, photos.with_photos(photos.photos[:4]), 64, 1, 1.0, False, 0)
        draws = fixed_draws(model, views, 4, 4, 0)[0]
        start = model.words("red cup")["l"]
        value = _loss_of(model, views, draws)
        vectors = start.clone().requires_grad_(True)
        value({"l": vectors}).backward()
        generator = torch.Generator().manual_seed(1)
        directions = [vectors.grad / vectors.grad.norm(), torch.randn(start.shape, generator=generator)]
        for direction in directions:
            expected = float((vectors.grad * direction).sum())
            step = 2e-2 / float(direction.norm())
            with torch.no_grad():
                up, down = (float(value({"l": start + s * step * direction}).double()) for s in (1, -1))
            measured = (up - down) / (2 * step)
            print(f"{dtype}: gradient {expected:.6g}, finite difference {measured:.6g}")
            assert measured == pytest.approx(expected, rel=0.03, abs=2e-6 / step)


def test_gradient_in_float64_through_the_unet(host_model):
    """The U-Net's own part in double precision, where finite differences are exact to many digits."""
    base = host_model().patcher.model
    with torch.inference_mode(False):
        torch.manual_seed(0)
        unet = copy.deepcopy(base.diffusion_model).double()
        unet.dtype = torch.float64
        sampling = base.model_sampling
        latents = torch.randn(2, unet.in_channels, 8, 8, dtype=torch.float64)
        context = torch.randn(2, 77, 128, dtype=torch.float64, requires_grad=True)
        sigma = torch.tensor([0.5, 3.0], dtype=torch.float64)

        def value(tokens):
            out = unet(sampling.calculate_input(sigma, latents), sampling.timestep(sigma).double(), context=tokens)
            return sampling.calculate_denoised(sigma, out, latents).square().mean()

        value(context).backward()
        direction = torch.randn_like(context)
        with torch.no_grad():
            measured = (value(context + 1e-5 * direction) - value(context - 1e-5 * direction)) / 2e-5
        assert float(measured) == pytest.approx(float((context.grad * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn], ids=str)
def test_every_precision_trains_and_the_weights_exist_once(host_model, dtype):
    model = host_model(dtype)
    unet = model.patcher.model.diffusion_model
    places = [(id(p), p.data_ptr()) for p in unet.parameters()]
    inside = []

    class Watch:
        def step(self, done, total, value, phase):
            inside.append({p.data_ptr() for p in unet.parameters()})

        def measured(self, history):
            pass

        def preview(self, done, concept):
            pass

    with torch.inference_mode():
        concept, history = train(model, demo_assets.subject(), SHORT, None, Watch())
    assert [(id(p), p.data_ptr()) for p in unet.parameters()] == places
    assert inside[0] == {pointer for _, pointer in places}, "training made a second copy of the weights"
    assert torch.isfinite(concept.vectors["l"]).all()
    start = model.words("cup")["l"]
    assert (concept.vectors["l"][:1] - start).abs().max() > 1e-4, "nothing was learnt"
    assert len(history.losses) == 6


def test_half_precision_computation_trains_like_single(host_model):
    """Gradients in float16 survive the way through the U-Net and the text encoder."""
    learnt = []
    for half in (False, True):
        model = host_model()
        if half:
            with torch.inference_mode():
                model.patcher.model.diffusion_model.half()
            model.patcher.model.diffusion_model.dtype = torch.float16
            assert model.compute_dtype == torch.float16
        with torch.inference_mode():
            concept, _ = train(model, demo_assets.subject(), SHORT)
        learnt.append(concept.vectors["l"] - model.words("cup")["l"])
    likeness = torch.nn.functional.cosine_similarity(learnt[0][:1], learnt[1][:1])
    assert float(likeness) > 0.9


def test_background_tokens_get_no_gradient_from_the_subject_phase(host_model):
    model = host_model()
    with torch.inference_mode(), model.training(2, 64):
        with torch.no_grad():
            views = make_views(model, demo_assets.subject(), 64, 1, 1.0, False, 0)
        subject = {"l": model.words("cup")["l"].requires_grad_(True)}
        background = {"l": model.words("plain white")["l"].requires_grad_(True)}
        draws = fixed_draws(model, views, 2, 2, 0)[0]
        loss(model, views, draws, subject, [background], 1.0, "background").mean().backward()
        assert background["l"].grad.abs().max() > 0
        context = model.encode(
            [f"a {SUBJECT} on a {BACKGROUND} background"], [{SUBJECT: subject, BACKGROUND: background}]
        )
        assert context.tokens.shape == (1, 77, 128)


def test_output_scale_is_that_of_the_prediction_type(host_model, comfy):
    import comfy.model_base

    model = host_model()
    sigma = torch.tensor([0.1, 1.0, 10.0])
    assert model.prediction == "v"
    assert torch.allclose(model.output_scale(sigma), sigma / (sigma**2 + 1).sqrt(), rtol=1e-4)
    base = model.patcher.model
    base.model_sampling = comfy.model_base.model_sampling(base.model_config, comfy.model_base.ModelType.EPS)
    assert torch.allclose(model.output_scale(sigma), sigma, rtol=1e-4)
