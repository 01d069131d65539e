"""Strength, feather and number of steps for a set, from short pilot runs that are compared on unseen pictures.

All pilots are trained at once in one batch of the shared U-Net, beside background tokens that are learnt once. At each
rung the worse half is dropped (successive halving, Jamieson and Talwalkar, AISTATS 2016). What is compared: how well
the subject is predicted in unseen pictures, and how much worse than by the class word their backgrounds are, for what a
concept knows of the training photos' background it expects in every other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import AttractorError
from .masks import Refinement, refine, to_latent_grid

if TYPE_CHECKING:
    from ..training.model import DiffusionModel
    from ..training.photos import SubjectSet
    from ..training.settings import TrainSettings
    from ..training.watcher import Watcher

STRENGTHS = (1.0, 0.85, 0.6, 0.3, 0.0)
WIDE_FEATHER = 30.0  # per mille of the longer side: what the last pilot tries at full strength
_RUNGS = (0.35, 0.65, 1.0)  # of the pilots' steps
_SAMPLES = 32  # unseen views, noises and timesteps that are compared on
_RISEN = 2.0  # standard errors by which the subject's error rises for certain


@dataclass(frozen=True)
class Pilot:
    """One pilot: its strength and extra feather, and what was measured of it at each rung.

    curve: (step, subject, background, error): errors on unseen pictures over the class word's, inside and outside
    the masks, and the standard error of their sum.
    """

    strength: float
    feather: float
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)

    @property
    def worth(self) -> float:
        """What is to be small: the subject's error, and what the background's has risen by."""
        _, subject, background, _ = self.curve[-1]
        return subject + max(0.0, background - 1)


@dataclass(frozen=True)
class Proposal:
    """What the pilots speak for. floor: weight of a pixel outside the mask, 1 - strength by the loss's formula.

    pilots: all, those that were dropped early with short curves. sentence: why, in words. unseen: what they were
    compared on.
    """

    strength: float
    feather: float
    steps: int
    pilots: tuple[Pilot, ...]
    sentence: str
    unseen: str

    @property
    def floor(self) -> float:
        """Weight of a pixel outside the mask."""
        return 1 - self.strength

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "strength": self.strength, "floor": round(self.floor, 4), "feather": self.feather, "steps": self.steps,
            "sentence": self.sentence, "compared_on": self.unseen,
            "pilots": [{"strength": p.strength, "feather": p.feather,
                        "curve": [[s, *(round(v, 5) for v in rest)] for s, *rest in p.curve]} for p in self.pilots],
        }  # fmt: skip


def propose(
    model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, held_out: SubjectSet | None = None,
    pilot_steps: int = 100, watcher: Watcher | None = None,
) -> Proposal:  # fmt: skip
    """Settings for a set with masks, by pilot runs of `pilot_steps` steps each.

    Compared on the held-out photos where they have masks, else on crops of the training photos whose background is
    swapped for plain and graded colours. Raises AttractorError for a set without masks, and what the watcher raises.
    """
    from ..training.device import deterministic
    from ..training.objective import fixed_draws
    from ..training.run import TrainingRun
    from ..training.side_by_side import SideBySide
    from ..training.views import make_views
    from ..training.watcher import Silent

    if not subject.has_masks or all(float(p.mask.mean()) > 0.98 for p in subject.photos if p.mask is not None):
        raise AttractorError("The set has no masks to weigh by: wire it through Attractor Mask first.")
    watcher = watcher or Silent()
    background = min(settings.background_steps, max(1, pilot_steps * 3 // 4)) if settings.background_steps else 0
    short = replace(settings, representation="TI", background_steps=background, steps=pilot_steps,
                    background_change="none")  # fmt: skip
    with torch.inference_mode(False), deterministic():
        run = TrainingRun(model, subject, short, None, watcher)
        unseen, what = _unseen(subject, held_out, settings)
        with torch.no_grad():
            near = settings.nearer_to_measure
            views = make_views(model, unseen, settings.resolution, 2, 1.0, False, settings.seed, nearer=near,
                               watch=watcher.encoding)  # fmt: skip
        pilots = [Pilot(s, 0.0) for s in STRENGTHS] + [Pilot(1.0, WIDE_FEATHER)]
        variants = [_variant(run, subject, pilot) for pilot in pilots]
        with model.training(settings.batch_size, settings.resolution):
            run.learn_background()
            side = SideBySide(run, variants, pilot_steps)
            draws = fixed_draws(model, views, _SAMPLES, settings.batch_size * 2, settings.seed + 5)
            plain = side.measure(views, draws, [run.class_word()])[0]
            alive = list(range(len(pilots)))
            for step in range(1, pilot_steps + 1):
                losses = side.step()
                done, total = background + step, background + pilot_steps
                watcher.step(done, total, min(losses), f"{len(alive)} pilots")
                if not all(math.isfinite(value) for value in losses):
                    raise AttractorError(f"A pilot's loss became {max(losses)} at step {step}: lower learning_rate.")
                if step in {max(1, round(rung * pilot_steps)) for rung in _RUNGS}:
                    measured = side.measure(views, draws, side.smooth)
                    if not torch.isfinite(measured).all():
                        raise AttractorError("A pilot's error is no number: lower learning_rate.")
                    for i, own in zip(alive, measured, strict=True):
                        pilots[i].curve.append((step, *_compared(own, plain)))
                    kept = _kept([pilots[i] for i in alive])
                    if step < pilot_steps and len(kept) < len(alive):
                        side.keep(kept)
                        alive = [alive[k] for k in kept]
    return _decide(pilots, [pilots[i] for i in alive], settings, what)


def _variant(run, subject: SubjectSet, pilot: Pilot):
    """The masks of the run's views with the pilot's feather."""
    from ..training.side_by_side import Variant

    masks = run.views.masks
    if pilot.feather:
        from ..training.views import view_masks

        how = Refinement(feather=pilot.feather, fill_holes=False)
        soft = subject.with_photos(replace(p, mask=refine(p.mask, how)) for p in subject.photos if p.mask is not None)
        s = run.settings
        full = view_masks(soft, s.resolution, s.views, s.zoom, s.flip, s.seed, s.nearer, placed_by=subject)
        masks = to_latent_grid(full, *masks.shape[-2:]).to(masks.device)
    return Variant(pilot.strength, masks)


def _unseen(subject: SubjectSet, held_out: SubjectSet | None, settings: TrainSettings) -> tuple[SubjectSet, str]:
    if held_out is not None and len(held_out) and held_out.has_masks:
        return held_out, f"{len(held_out)} held-out photos"
    from ..training.augment import swapped

    generator = torch.Generator().manual_seed(settings.seed + 6)
    photos = [replace(photo, pixels=swapped(photo.pixels, photo.mask, generator))
              for photo in subject.photos if photo.mask is not None for _ in range(2)]  # fmt: skip
    return subject.with_photos(photos), f"{len(photos)} crops with swapped backgrounds"


def _compared(own: Tensor, plain: Tensor) -> tuple[float, float, float]:
    """Errors [2, N] inside and outside over the class word's, and the standard error of their sum."""
    base = plain.mean(1, keepdim=True).clamp(min=1e-9)
    subject, background = (own / base).mean(1).tolist()
    paired = ((own - plain) / base).sum(0)
    return subject, background, float(paired.std() / math.sqrt(max(1, paired.numel())))


def _kept(pilots: Sequence[Pilot]) -> list[int]:
    """The better half; of those that are not certainly worse than the best, the strongest come first."""
    equal = _as_good(pilots)

    def rank(k: int) -> tuple:
        pilot = pilots[k]
        return (0, -pilot.strength, pilot.feather) if pilot in equal else (1, pilot.worth, 0)

    return sorted(sorted(range(len(pilots)), key=rank)[: max(2, math.ceil(len(pilots) / 2))])


def _as_good(pilots: Sequence[Pilot]) -> list[Pilot]:
    """The best pilot, and those within one standard error of it."""
    best = min(pilots, key=lambda p: p.worth)
    return [p for p in pilots if p.worth <= best.worth + best.curve[-1][3]]


def _decide(pilots: Sequence[Pilot], left: Sequence[Pilot], settings: TrainSettings, what: str) -> Proposal:
    """The strongest of those as good as the best one, for a strong attractor is what protects later steps."""
    chosen = max(_as_good(left), key=lambda p: (p.strength, -p.feather))
    _, subject, background, _ = chosen.curve[-1]
    steps = _steps(chosen, settings)
    worst = max(pilots, key=lambda p: p.worth)
    sentence = (
        f"Strength {chosen.strength:g}: on {what} the subject's error is {subject:.0%} of the class word's and the "
        f"background's {background:.0%}; strength {worst.strength:g} came to {worst.curve[-1][1]:.0%} and "
        f"{worst.curve[-1][2]:.0%}. {steps} steps."
    )
    return Proposal(chosen.strength, chosen.feather, steps, tuple(pilots), sentence, what)


def _steps(pilot: Pilot, settings: TrainSettings) -> int:
    """The settings' own number, unless the subject's error on unseen pictures rises for certain: then twice
    the steps after which it did. (That it no longer falls is no reason to stop: docs/notes.md.)
    """
    for (step, before, *_), (_, after, _, error) in zip(pilot.curve, pilot.curve[1:], strict=False):
        if after > before + _RISEN * error:
            return min(settings.steps, 2 * step)
    return settings.steps
