"""The rules of the training loop: what is measured, when the background is done, and which step is kept."""

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.training.history import has_settled, latest_as_good
from attractor_pack.training.objective import fixed_draws
from attractor_pack.training.settings import TrainSettings
from attractor_pack.training.views import Views, _place


class Model:
    """What fixed_draws asks of a model."""

    device = torch.device("cpu")
    timesteps = 1000


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


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("strength", 1.1), ("resolution", 100), ("background_scope", "x"), ("vectors", 99)],
)
def test_settings_name_what_cannot_be(field, value):
    with pytest.raises(AttractorError, match=field):
        TrainSettings(**{field: value})
