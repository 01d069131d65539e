"""Concepts whose words differ by layer and timestep, in the host's own samplers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from attractor_pack.attractor.prompts import SUBJECT
from attractor_pack.tools.graphs import TRAINING, node
from attractor_pack.training import demo_assets
from attractor_pack.training.concept import Concept, load_concept
from attractor_pack.training.contexts import Row, encode_words
from attractor_pack.training.objective import Part, fixed_draws, loss, losses_in_turn
from attractor_pack.training.representations import build
from attractor_pack.training.views import make_views

pytestmark = pytest.mark.host

PROMPT = f"a photo of a {SUBJECT} on a beach"
STEPS, CFG = 5, 3.0


@pytest.fixture(scope="module")
def loaded(comfy):
    from attractor_pack.nodes.host import demo
    from attractor_pack.nodes.host.model import HostModel

    with torch.inference_mode():
        parts = demo.load()
    return (*parts, HostModel(*parts))


def made(host, kind):
    """A concept of a kind, well away from where training would start."""
    word = host.words("cup")
    subject = build(kind, {k: v.repeat(2, 1) for k, v in word.items()}, word, host.layers, 3)
    if kind == "XTI":
        subject.begin(2, 2)
        generator = torch.Generator().manual_seed(1)
        for offset in subject.offsets.values():
            offset.data.copy_(torch.randn(offset.shape, generator=generator) * 0.02)
    plain = {k: v.detach() for k, v in subject.plain().items()}
    return Concept(plain, "cup", {}, kind, {k: v.detach() for k, v in subject.state_dict().items()})


def sample(model, positive, clip, sampler="euler", negative=None, cfg=CFG, **changes):
    import comfy.sample
    from attractor_pack.nodes.host.sampling import conditioning

    blank = torch.zeros(1, model.get_model_object("latent_format").latent_channels, 8, 8)
    with torch.inference_mode():
        found = comfy.sample.sample(
            model, comfy.sample.prepare_noise(blank, 5), STEPS, cfg, sampler, "normal", positive,
            conditioning(clip, "", None) if negative is None else negative, blank, seed=5, disable_pbar=True, **changes,
        )  # fmt: skip
    return found


def by_hand(host, concept, comfy):
    """Euler with classifier-free guidance, every step under the contexts of its own timestep."""
    import comfy.sample
    import comfy.samplers

    model, sampling = host.patcher, host.patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    blank = torch.zeros(1, model.get_model_object("latent_format").latent_channels, 8, 8)
    noise, blank, sigmas = (t.to(host.device) for t in (comfy.sample.prepare_noise(blank, 5), blank, sigmas))
    with torch.no_grad(), host.training(1, 64):
        x = sampling.noise_scaling(sigmas[0], noise, blank, True)
        nothing = host.encode([""], [{}])
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            words = concept.representation()(sampling.timestep(sigma[None]).cpu())
            seen = [host.denoise(x, sigma[None], c) for c in (encode_words(host.encode, [Row(PROMPT)], words), nothing)]
            guided = seen[1] + CFG * (seen[0] - seen[1])
            x = x + (x - guided) / sigma * (following - sigma)
    return model.model.process_latent_out(x).cpu()


@pytest.mark.parametrize("kind", ["XTI", "NeTI"])
def test_the_hosts_sampler_sees_each_layers_own_context(loaded, kind, comfy):
    from attractor_pack.nodes.host.sampling import conditioning, prompted

    model, clip, _, host = loaded
    concept = made(host, kind)
    with torch.inference_mode():
        patched, positive = prompted(model, clip, PROMPT, concept)
        plain = conditioning(clip, PROMPT, concept)
    expected, found = by_hand(host, concept, comfy), sample(patched, positive, clip)
    assert torch.allclose(found, expected, atol=2e-3), float((found - expected).abs().max())
    without = sample(model, plain, clip)
    assert (found - without).abs().max() > 0.05, "it is the plain embedding's picture"
    # the conditioning by itself is the plain embedding, and other prompts go through the patched model untouched
    assert torch.equal(sample(model, positive, clip), without)
    with torch.inference_mode():
        other = conditioning(clip, "a red cup", None)
    assert torch.equal(sample(patched, other, clip), sample(model, other, clip))
    assert torch.equal(sample(patched, positive, clip), found), "the second picture of a seed is another"


def test_prompts_beside_it_keep_their_own_context(loaded):
    """Combined with another prompt half of the rows are ours; joined to one, the first half of the tokens."""
    from attractor_pack.nodes.host.sampling import conditioning, prompted

    model, clip, _, host = loaded
    concept = made(host, "NeTI")
    with torch.inference_mode():
        patched, positive = prompted(model, clip, PROMPT, concept)
        other = conditioning(clip, "a blue lamp", None)
    seen = []

    def look(n, key, value, extra):
        seen.append((key.clone().cpu(), value.clone().cpu(), list(extra["cond_or_uncond"])))
        return n, key, value

    watched = patched.clone()
    watched.set_model_attn2_patch(look)
    sample(watched, [*other, *positive], clip)
    keys, values, which = seen[0]
    ours, theirs = [i for i in range(len(which)) if not torch.equal(keys[i], values[i])], other[0][0][0]
    assert len(which) == 3 and len(ours) == 1, "one row of three is NeTI's"
    assert sum(torch.allclose(keys[i], theirs, atol=1e-5) for i in range(3)) == 1
    seen.clear()
    joined = [[torch.cat([positive[0][0], other[0][0]], dim=1), positive[0][1]]]
    sample(watched, joined, clip)
    keys, values, which = seen[0]
    row = which.index(0)
    assert keys.shape[1] == 154 and torch.allclose(keys[row, 77:], theirs, atol=1e-5)
    assert not torch.equal(keys[row, :77], values[row, :77])


@pytest.mark.parametrize("kind", ["XTI", "NeTI"])
def test_what_stock_nodes_make_of_the_prompt_stays_theirs(loaded, kind, comfy):
    """The host hands the mark on with an area's copy for the negative, with zeroed and with averaged tokens."""
    from attractor_pack.nodes.host.sampling import conditioning, prompted

    spec = importlib.util.spec_from_file_location("stock_nodes", Path(comfy.__path__[0]).parent / "nodes.py")
    nodes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nodes)
    model, clip, _, host = loaded
    with torch.inference_mode():
        patched, positive = prompted(model, clip, PROMPT, made(host, kind))
        other = conditioning(clip, "a red cup", None)
        area, = nodes.ConditioningSetAreaPercentage().append(positive, 1.0, 1.0, 0.0, 0.0, 1.0)
        zeroed, = nodes.ConditioningZeroOut().zero_out(positive)
        averaged, = nodes.ConditioningAverage().addWeighted(positive, other, 0.0)
        whole, = nodes.ConditioningAverage().addWeighted(positive, other, 1.0)
        nothing, = nodes.ConditioningZeroOut().zero_out(other)
    plain = sample(patched, positive, clip, cfg=7.0)
    assert torch.allclose(sample(patched, area, clip, cfg=7.0), plain, atol=1e-4), "the whole frame is an area as well"
    guided = sample(patched, positive, clip, negative=zeroed, cfg=7.0)
    assert torch.equal(guided, sample(patched, positive, clip, negative=nothing, cfg=7.0)), "zeros are zeros"
    assert (guided - sample(patched, positive, clip, negative=zeroed, cfg=1.0)).abs().max() > 0.05
    assert torch.allclose(sample(patched, averaged, clip), sample(model, other, clip), atol=1e-4)
    assert torch.equal(sample(patched, whole, clip), sample(patched, positive, clip))


def test_noise_levels_are_counted_as_training_counts_them(loaded):
    """Also by samplings whose own timesteps are no places in the table, as EDM's are."""
    from attractor_pack.nodes.host.layered import _timesteps
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    model, _, _, host = loaded
    continuous = ModelSamplingContinuousEDM().patch(model, "v_prediction", 120.0, 0.002)[0]
    for sampling in (model.get_model_object("model_sampling"), continuous.get_model_object("model_sampling")):
        places = torch.tensor([0, 300, len(sampling.sigmas) - 1])
        assert _timesteps(sampling, sampling.sigmas[places]).tolist() == places.tolist()


@pytest.mark.parametrize("sampler", ["dpm_2", "dpmpp_2s_ancestral", "heun"])
def test_samplers_that_look_between_their_steps(loaded, sampler):
    from attractor_pack.nodes.host.sampling import prompted

    model, clip, _, host = loaded
    with torch.inference_mode():
        patched, positive = prompted(model, clip, PROMPT, made(host, "NeTI"))
        found = sample(patched, positive, clip, sampler)
    assert torch.isfinite(found).all() and (found - sample(model, positive, clip, sampler)).abs().max() > 0.05


def test_weights_in_brackets_act_on_every_layer(loaded):
    from attractor_pack.nodes.host.sampling import prompted

    model, clip, _, host = loaded
    concept = made(host, "XTI")
    found = []
    for prompt in (PROMPT, f"a photo of a ({SUBJECT}:0.3) on a beach", f"a photo of a ({SUBJECT}:1.0) on a beach"):
        with torch.inference_mode():
            found.append(sample(*prompted(model, clip, prompt, concept), clip))
    assert torch.equal(found[0], found[2]) and (found[0] - found[1]).abs().max() > 0.02


@pytest.mark.parametrize("kind", ["XTI", "NeTI"])
def test_gradient_reaches_every_representation(loaded, kind):
    *_, host = loaded
    photos = demo_assets.subject()
    concept = made(host, kind)
    with torch.inference_mode(False), host.training(4, 64):
        with torch.no_grad():
            views = make_views(host, photos.with_photos(photos.photos[:4]), 64, 1, 1.0, False, 0)
        draws = fixed_draws(host, views, 4, 4, 0)[0]
        subject = concept.representation()
        groups = subject.groups(1.0, host.table_scale())
        learnt = [p for group in groups for p in group["params"] if kind == "NeTI" or p.ndim == 3]
        for parameter in learnt:
            parameter.requires_grad_(True)

        def value():
            return loss(host, Part(views, draws, subject, (), 1.0, "subject")).mean()

        value().backward()
        size = torch.stack([p.grad.norm() for p in learnt]).norm()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learnt)
        step, ends, starts = 5e-3, [], [p.detach().clone() for p in learnt]
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, start in zip(learnt, starts, strict=True):
                    parameter.copy_(start + sign * step * parameter.grad / size)
                ends.append(float(value().double()))
        measured = (ends[0] - ends[1]) / (2 * step)
        print(f"{kind}: gradient {float(size):.5g}, finite difference {measured:.5g}")
        assert measured == pytest.approx(float(size), rel=0.05)


@pytest.mark.parametrize("kind", ["TI", "XTI", "NeTI"])
def test_it_is_measured_alike_however_many_samples_go_at_once(loaded, kind):
    """Sample by sample, as where memory is short, each with the words of its own timestep."""
    *_, host = loaded
    photos = demo_assets.subject()
    concept = made(host, kind)
    with torch.inference_mode(False), torch.no_grad(), host.training(4, 64):
        views = make_views(host, photos.with_photos(photos.photos[:2]), 64, 1, 1.0, False, 0)
        draws, subject = fixed_draws(host, views, 6, 3, 0), concept.representation().eval()
        found = []
        for size in (3, 1):
            pieces = [piece for one in draws for piece in one.split(3 // size)]
            found.append(losses_in_turn(host, [Part(views, p, subject, (), 1.0, "subject") for p in pieces]))
        assert len(found[1]) == 6 and torch.allclose(*found, rtol=1e-3), found


@pytest.mark.parametrize(("kind", "layers"), [("sd15", 16), ("sdxl", 11)])
def test_layers_of_the_real_architectures(comfy, kind, layers):
    """The published 16 of SD1.5, in the host's order; of SDXL each run of blocks between two convolutions is one."""
    import comfy.ops
    from attractor_pack.nodes.host.model import count_layers
    from attractor_pack.tools.checkpoints import UNETS
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        unet = UNetModel(**UNETS[kind], dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model = type("Patcher", (), {"model": type("Model", (), {"diffusion_model": unet})})
    assert count_layers(model) == layers
    names = [n for n, m in unet.named_modules() if hasattr(m, "transformer_blocks")]
    if kind == "sd15":
        places = [f"{n.split('_')[0]}{int(n.split('.')[1]):02d}" if "middle" not in n else "mid" for n in names]
        assert places == ["input01", "input02", "input04", "input05", "input07", "input08", "mid",
                          *(f"output{i:02d}" for i in range(3, 12))]  # fmt: skip


@pytest.mark.parametrize("kind", ["XTI", "NeTI"])
def test_through_the_server(server, load_demo, demo, said, kind):
    """Trained, saved, loaded, painted by the stock sampler; the plain embedding is read by the stock prompt."""
    settings = {**TRAINING, "steps": 12, "background_steps": 6, "views": 2, "representation": kind}
    name = f"layered-{kind}"
    prompt = {"model": ["demo", 0], "clip": ["demo", 1], "concept": ["train", 0], "prompt": PROMPT}
    picture = {"seed": 4, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    run = server.queue(load_demo(
        train=node("Attractor_Train", **demo, train_set=["demo", 3], **settings),
        save=node("Attractor_SaveConcept", concept=["train", 0], name=name, when_exists="overwrite"),
        ours=node("Attractor_Prompt", **prompt),
        cut=node("Attractor_Prompt", **prompt, truncation=2),
        negative=node("CLIPTextEncode", clip=["demo", 1], text=""),
        latent=node("EmptyLatentImage", width=64, height=64, batch_size=1),
        whole=node("KSampler", model=["ours", 0], positive=["ours", 1], negative=["negative", 0],
                   latent_image=["latent", 0], **picture),
        plain=node("KSampler", model=["demo", 0], positive=["ours", 1], negative=["negative", 0],
                   latent_image=["latent", 0], **picture),
        less=node("KSampler", model=["cut", 0], positive=["cut", 1], negative=["negative", 0],
                  latent_image=["latent", 0], **picture),
        a=node("VAEDecode", samples=["whole", 0], vae=["demo", 2]),
        b=node("VAEDecode", samples=["plain", 0], vae=["demo", 2]),
        c=node("VAEDecode", samples=["less", 0], vae=["demo", 2]),
        whole_picture=node("Probe_Image", image=["a", 0], tag=f"{kind} whole"),
        plain_picture=node("Probe_Image", image=["b", 0], tag=f"{kind} plain"),
        less_picture=node("Probe_Image", image=["c", 0], tag=f"{kind} less"),
    ))  # fmt: skip
    pictures = [said(run, f"{n}_picture") for n in ("whole", "plain", "less")]
    assert pictures[0] != pictures[1]
    assert (pictures[0] != pictures[2]) == (kind == "NeTI"), "the truncation knob is NeTI's"
    found = load_concept(server.base / "models" / "embeddings" / f"{name}.safetensors")
    assert found.kind == kind and found.run_card["representation"] == kind
    assert found.run_card["loss"]["plain"] > 0 < found.run_card["loss"]["own"]
    run = server.queue(load_demo(
        stock=node("CLIPTextEncode", clip=["demo", 1], text=f"a photo of a embedding:{name} on a beach"),
        loaded=node("Attractor_LoadConcept", file=f"{name}.safetensors"),
        ours=node("Attractor_Prompt", **{**prompt, "concept": ["loaded", 0]}),
        probe=node("Probe_Difference", a=["ours", 1], b=["stock", 0]),
    ))  # fmt: skip
    assert said(run, "probe")["difference"] <= 1e-5, "the stock prompt reads another embedding"
