"""The gradient to a token through the host's text encoder and U-Net, for weights in every precision."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.training import demo_assets
from attractor_pack.training.loop import train
from attractor_pack.training.objective import Part, fixed_draws, loss
from attractor_pack.training.run import TrainingRun
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.views import make_views
from attractor_pack.training.watcher import Silent

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
    return lambda subject: loss(model, Part(views, draws, subject, backgrounds, 1.0, "subject")).mean()


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
        directions = [vectors.grad / vectors.grad.norm(),
                      torch.randn(start.shape, generator=generator).to(start.device)]
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

    class Watch(Silent):
        def step(self, done, total, value, phase):
            inside.append({p.data_ptr() for p in unet.parameters()})

    with torch.inference_mode():
        concept, history = train(model, demo_assets.subject(), SHORT, None, Watch())
    assert [(id(p), p.data_ptr()) for p in unet.parameters()] == places
    assert inside[0] == {pointer for _, pointer in places}, "training made a second copy of the weights"
    assert torch.isfinite(concept.vectors["l"]).all()
    start = model.words("cup")["l"].cpu()
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
        learnt.append(concept.vectors["l"] - model.words("cup")["l"].cpu())
    likeness = torch.nn.functional.cosine_similarity(learnt[0][:1], learnt[1][:1])
    assert float(likeness) > 0.9


def test_background_and_subject_are_learnt_in_turn(host_model):
    model = host_model()
    run = TrainingRun(model, demo_assets.subject(), SHORT, None, Silent())
    start = {k: v.clone() for k, v in run.vectors.items()}
    with torch.inference_mode(), model.training(2, 64):
        run.learn_background()
        assert all(torch.equal(start[k], v) for k, v in run.vectors.items()), "the subject moved with the background"
        frozen = [b["l"].detach().clone() for b in run.backgrounds]
        assert not torch.equal(frozen[0], model.words("plain white")["l"]), "the background learnt nothing"
        run.learn_subject(0)
    assert all(torch.equal(f, b["l"]) for f, b in zip(frozen, run.backgrounds, strict=True))
    assert not torch.equal(start["l"], run.vectors["l"])


def test_models_that_are_pushed_out_during_a_preview_come_back(host_model, comfy):
    """A patched weight is the patched one for the host before and after, whatever it did in between."""
    model = host_model()
    key = next(k for k in model.patcher.model.state_dict() if k.endswith("attn2.to_k.weight"))
    plain = model.patcher.model.state_dict()[key].clone()
    patched = model.patcher.clone()
    patched.add_patches({key: ("diff", (torch.ones_like(plain),))})
    lent = type(model)(patched, model.clip, model.vae)

    class PushOut(Silent):
        def preview(self, done, concept):
            comfy.model_management.unload_all_models()

    with torch.inference_mode():
        train(lent, demo_assets.subject(), SHORT, None, PushOut(), preview_every=1)
        assert torch.allclose(patched.model.state_dict()[key], plain + 1)
        comfy.model_management.unload_all_models()
        assert torch.equal(model.patcher.model.state_dict()[key], plain)


@pytest.mark.parametrize("kind", ["TI", "NeTI"])
def test_models_that_are_moved_to_a_gpu_train_the_same(host_model, comfy, monkeypatch, kind):
    """A GPU's host puts new memory under the weights each time it loads or unloads them; a CPU's leaves them there."""
    import comfy.model_patcher

    patcher, photos = comfy.model_patcher.ModelPatcher, demo_assets.subject()
    settings = dataclasses.replace(SHORT, representation=kind)
    with torch.inference_mode():
        still = train(host_model(), photos, settings)[0]
    for name in ("load", "detach"):
        monkeypatch.setattr(patcher, name, _and_move(getattr(patcher, name)))
    with torch.inference_mode():
        moved = host_model()
        comfy.model_management.unload_all_models()
        learnt = [train(moved, photos, settings)[0] for _ in range(2)]
    for one in learnt:
        assert all(torch.equal(one.vectors[key], still.vectors[key]) for key in still.vectors)
    weights = [*moved.patcher.model.parameters(), *moved.clip.cond_stage_model.parameters()]
    assert all(p.is_inference() for p in weights), "weights were moved in another mode than the host's"
    known = moved.identity
    comfy.model_management.unload_all_models()  # as another pack may do it, outside of inference mode
    assert moved.identity == known
    again, _ = train(moved, photos, settings)
    assert torch.equal(again.vectors["l"], still.vectors["l"])


def _and_move(method):
    def then_move(self, *args, **kwargs):
        found = method(self, *args, **kwargs)
        self.model._apply(lambda tensor: tensor.clone())  # as Module.to(device) has it
        return found

    return then_move


def test_models_that_do_not_belong_together_are_refused(host_model):
    model = host_model()
    model.vae.latent_channels = 16
    with pytest.raises(AttractorError, match="vae and model do not belong together"):
        type(model)(model.patcher, model.clip, model.vae)


def test_output_scale_is_that_of_the_prediction_type(host_model, comfy):
    import comfy.model_base

    model = host_model()
    sigma = torch.tensor([0.1, 1.0, 10.0])
    assert model.prediction == "v"
    assert torch.allclose(model.output_scale(sigma), sigma / (sigma**2 + 1).sqrt(), rtol=1e-4)
    config, eps = model.patcher.model.model_config, comfy.model_base.ModelType.EPS
    patched = model.patcher.clone()  # as ModelSamplingDiscrete would do it
    patched.add_object_patch("model_sampling", comfy.model_base.model_sampling(config, eps))
    other = type(model)(patched, model.clip, model.vae)
    assert other.prediction == "eps"
    assert torch.allclose(other.output_scale(sigma), sigma, rtol=1e-4)
