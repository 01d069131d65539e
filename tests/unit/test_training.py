"""The rules of the training loop: what is measured, when the background is done, and which step is kept."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.loss import context_drift
from attractor_pack.training.augment import change_background, shift_colours
from attractor_pack.training.device import _repeatable, backward, deterministic
from attractor_pack.training.history import has_settled, latest_as_good
from attractor_pack.training.measuring import Measuring
from attractor_pack.training.objective import fixed_draws
from attractor_pack.training.photos import photo_from_tensor
from attractor_pack.training.schedules import draw_timesteps, mean_weight, rate_factor, snr_weight
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.views import Views, _place, view


class Model:
    """What fixed_draws asks of a model."""

    device = torch.device("cpu")
    timesteps = 1000


@pytest.mark.parametrize(("batch", "steps", "count", "times"), [
    (4, 400, 32, 12), (1, 400, 32, 6), (1, 200, 12, 8), (1, 40, 32, 6), (8, 6, 32, 6), (1, 1, 32, 1),
])  # fmt: skip
def test_measuring_takes_no_more_than_a_quarter_of_a_training(batch, steps, count, times):
    """But for a training that is soon over, which is measured six times all the same."""
    settings = TrainSettings(steps=steps, batch_size=batch)
    measuring = Measuring(Model(), settings, None, None)
    views = Views(torch.zeros(8, 4, 2, 2), torch.ones(8, 1, 2, 2), torch.arange(8))
    draws = measuring.draws(views, 0, count)
    every = measuring.every(steps, draws)
    measured = [step for step in range(1, steps + 1) if step % every == 0]
    assert len(measured) == times
    assert times <= 6 and steps <= 40 or times * count <= 0.25 * 2 * steps * batch * 1.01


def test_fixed_draws_see_every_photo_and_the_whole_schedule():
    views = Views(torch.zeros(72, 4, 2, 2), torch.ones(72, 1, 2, 2), torch.arange(9).repeat_interleave(8))
    draws = fixed_draws(Model(), views, 24, 4, 0)
    index, timestep = (torch.cat([getattr(d, n) for d in draws]) for n in ("index", "timestep"))
    counts = torch.bincount(views.photo[index], minlength=9)
    assert counts.min() >= 2 and counts.max() <= 3
    assert timestep.min() < 50 and timestep.max() > 950 and len(timestep.unique()) == 24
    late = [float(timestep[views.photo[index] == p].float().mean()) for p in range(9)]
    assert max(late) - min(late) < 800, "a photo's timesteps lie all at one end"
    again = fixed_draws(Model(), views, 24, 4, 0)
    assert all(torch.equal(a.noise, b.noise) for a, b in zip(draws, again, strict=True))


def test_the_last_step_that_is_not_certainly_worse_is_kept():
    generator = torch.Generator().manual_seed(0)
    hardness = torch.rand(24, generator=generator) * 5  # samples differ far more than the steps do

    def measured(level, noise=0.01):
        return hardness + level + noise * torch.randn(24, generator=generator)

    falling = [measured(level) for level in (1.0, 0.8, 0.7, 0.6)]
    assert latest_as_good(falling) == 3
    overfitting = [measured(level) for level in (1.0, 0.6, 0.5, 0.55, 0.7)]
    assert latest_as_good(overfitting) == 2
    flat = [measured(0.5, noise=0.2) for _ in range(6)]
    assert latest_as_good(flat) >= 3, "noise alone must not send it back to the start"


def test_the_background_is_done_when_its_loss_no_longer_falls():
    assert not has_settled([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert has_settled([1.0, 0.6, 0.5, 0.5, 0.5, 0.498])
    assert not has_settled([0.5, 0.5, 0.5])


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_a_window_keeps_the_subject(draw):
    profile = torch.zeros(100)
    profile[60:80] = 1
    start = _place(profile, 40, 100, draw)
    assert start <= 60 and start + 40 >= 80 and 0 <= start <= 60
    wide = torch.ones(100)
    assert 0 <= _place(wide, 40, 100, draw) <= 60


@pytest.mark.slow
def test_a_small_subject_is_brought_nearer_where_its_mask_says_so():
    """A subject of a fifth of a large photo, without a mask, in a photo of few pixels, and with views as they are."""

    def shares(side, zoom, masked=True, nearer="random"):
        photo = photo_from_tensor(torch.zeros(side, side, 3), "far")
        mask = torch.zeros(side, side)
        mask[side // 2 : side // 2 + side // 5, side // 4 : side // 4 + side // 10] = 1
        photo = replace(photo, mask=mask if masked else None)
        generator = torch.Generator().manual_seed(3)
        masks = [view(photo, 64, zoom, False, generator, nearer)[1].gt(0.5) for _ in range(200)]
        high, wide = (torch.stack([m.any(d).float().mean() for m in masks]) for d in (1, 0))
        assert not masked or (high - 2 * wide).abs().max() < 0.05, "none of it is cut off"
        return high

    near = shares(640, 1.2)
    assert near.min() < 0.25 and 0.65 < near.max() < 0.75, "from the photo as it is to 1.2 times .6 of the view"
    assert shares(640, 1.0).max() < 0.22
    assert shares(640, 1.2, masked=False).min() == 1
    assert 0.4 < shares(64, 1.2).max() < 0.53, "pixels are made at most twice as large for it"
    assert 0.95 < shares(640, 4.0).max() <= 1
    half = shares(640, 1.0, nearer="half")
    assert half.min() == half.max() == pytest.approx(0.4, abs=0.02)
    assert shares(640, 1.2, nearer="no").max() < 0.26
    assert TrainSettings(strength=0.0, background_scope="none").nearer == "no", "plain training knows no masks"


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("strength", 1.1), ("resolution", 100), ("background_scope", "x"), ("vectors", 99)],
)
def test_settings_name_what_cannot_be(field, value):
    with pytest.raises(AttractorError, match=field):
        TrainSettings(**{field: value})


def test_min_snr_weights_are_those_of_the_paper():
    """min(SNR, 5) / SNR for noise, / (SNR + 1) for velocity; SNR of alpha_bar is alpha_bar / (1 - alpha_bar)."""
    alpha = torch.tensor([0.999, 0.9, 0.5, 0.01])
    ratio = alpha / (1 - alpha)
    sigma = ((1 - alpha) / alpha).sqrt()
    capped = torch.minimum(ratio, torch.tensor(5.0))
    assert torch.allclose(snr_weight(sigma, 5.0, "eps"), capped / ratio, rtol=1e-4)
    assert torch.allclose(snr_weight(sigma, 5.0, "v"), capped * (1 - alpha), rtol=1e-4)


def test_timesteps_toward_noise_have_their_density():
    generator = torch.Generator().manual_seed(0)
    found = draw_timesteps("toward noise", 1000, 100_000, generator)
    for first, last in ((0, 100), (450, 550), (900, 1000)):
        share = float(((found >= first) & (found < last)).float().mean())
        middle = (first + last) / 2000
        assert share == pytest.approx(0.1 * (1 - 0.5 * math.cos(math.pi * middle)), abs=0.004)
    assert found.min() >= 0 and found.max() <= 999


def test_rates_warm_up_then_fall_or_stay():
    for schedule, last in (("cosine", 0.1), ("constant", 1.0)):
        factors = [rate_factor(schedule, i, 200) for i in range(200)]
        assert factors[0] == pytest.approx(0.1) and max(factors) == 1.0 == factors[10]
        assert factors[-1] == pytest.approx(last, abs=0.01)


def test_attention_is_strict_about_repeating_itself_in_its_own_backward_alone():
    """What a GPU gets in the place of torch's attention, on the CPU: same numbers, and leave to warn elsewhere."""
    q, k, v = (torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(i), requires_grad=True)
               for i in range(3))  # fmt: skip
    found, modes = [], []
    for attention in (F.scaled_dot_product_attention, partial(_repeatable, F.scaled_dot_product_attention)):
        with deterministic():
            inside = attention(q * 1, k, v)
            before = q.register_hook(lambda _: modes.append(torch.is_deterministic_algorithms_warn_only_enabled()))
            node = inside.grad_fn
            node.register_prehook(lambda _: modes.append(torch.is_deterministic_algorithms_warn_only_enabled()))
            found.append(torch.autograd.grad(inside.square().sum(), (q, k, v)))
            before.remove()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert modes == [True, True, False, True]  # node and what comes after it: torch's own, then ours
    assert not torch.are_deterministic_algorithms_enabled()


def test_attention_that_fails_in_backward_leaves_no_strictness_behind():
    q = torch.randn(1, 1, 4, 8, requires_grad=True)

    def fail(_):
        raise torch.OutOfMemoryError("no memory")

    with deterministic():
        out = _repeatable(F.scaled_dot_product_attention, q, q, q)
        out.grad_fn.register_prehook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            backward(out.sum())
        assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_running_mean_is_not_held_back_by_its_start():
    mean, decay = torch.zeros(()), 0.99
    for step in range(1, 11):
        mean.lerp_(torch.ones(()), mean_weight(decay, step))
    assert float(mean) > 0.9  # a plain mean of this decay would stand at .1
    assert mean_weight(decay, 100_000) == pytest.approx(0.01)


def test_a_changed_background_leaves_the_subject():
    picture, mask = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    picture[:, mask == 1] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    picture[2, mask == 0] = 1.0
    for how in ("swap", "blur"):
        found = change_background(how, picture, mask, torch.Generator().manual_seed(1))
        assert torch.equal(found[:, mask == 1], picture[:, mask == 1])
        assert (found - picture)[:, mask == 0].abs().mean() > 0.05
    assert found[2, mask == 0].min() > 0.95, "the subject's red ran into the blurred background"
    assert float(found[:2, mask == 0].std()) < 0.6 * float(picture[:2, mask == 0].std())
    with pytest.raises(AttractorError, match="Attractor Mask"):
        change_background("blur", picture, None, torch.Generator())


def test_colours_shift_a_little_and_stay_colours():
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    generator = torch.Generator().manual_seed(2)
    changes = [(shift_colours(picture, 0.5, generator) - picture).abs().mean() for _ in range(20)]
    assert 0.005 < min(changes) and max(changes) < 0.2
    assert torch.allclose(shift_colours(picture, 0.0, generator), picture, atol=1e-6)


def test_drift_is_that_of_the_other_words():
    plain = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    moved = plain.clone()
    moved[:, 3:5] += 5  # the subject's own places do not count
    assert context_drift(moved, plain, slice(3, 5)).abs().max() == 0
    moved[1, 6] += 1
    drift = context_drift(moved, plain, slice(3, 5))
    other = [i for i in range(10) if i not in (3, 4)]
    assert drift[0] == 0 and float(drift[1]) == pytest.approx(4 / float(plain[1, other].square().sum()), rel=1e-4)
    layers = moved[:, None].expand(-1, 3, -1, -1)
    assert torch.allclose(context_drift(layers, plain, slice(3, 5)), drift)
