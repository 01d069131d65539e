"""Strength, feather and number of steps for a set, from short pilot runs that are compared on unseen pictures.

All pilots are trained at once in one batch of the shared U-Net, beside background tokens that are learnt once. At each
rung the worse half is dropped (successive halving, Jamieson and Talwalkar, AISTATS 2016). What is compared: how well
the subject is predicted in unseen pictures, and how much worse than by the class word other backgrounds are, for what a
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
    from ..training.model import DiffusionModel, Embedding
    from ..training.objective import Draw
    from ..training.photos import SubjectSet
    from ..training.settings import TrainSettings
    from ..training.side_by_side import SideBySide
    from ..training.views import Views
    from ..training.watcher import Watcher

STRENGTHS = (1.0, 0.85, 0.6, 0.3, 0.0)
WIDE_FEATHER = 30.0  # per mille of the longer side: what the last pilot tries at full strength
_RUNGS = (0.35, 0.65, 1.0)  # of the pilots' steps
_SAMPLES = 32  # unseen views, noises and timesteps that are compared on
_VIEWS = 3  # of each unseen picture
_CROP = 1.2  # how near a crop goes at least, where training's views do not go nearer
_CERTAIN = 2.0  # standard errors of a paired difference, from which on it is there


@dataclass(frozen=True)
class Pilot:
    """One pilot: its strength and extra feather, and what was measured of it at each rung.

    curve: (step, subject, background, error): errors over the class word's, of the subject in unseen pictures and of
    other backgrounds, and the standard error of the pilot's worth. seen: 1 and what each sample's error lies above the
    class word's for the same sample, over the latter's mean: [2, N].
    """

    strength: float
    feather: float
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)

    @property
    def name(self) -> str:
        """In words."""
        return f"strength {self.strength:g}" + (", wide feather" if self.feather else "")

    @property
    def worth(self) -> float:
        """What is to be small: the subject's error, and what the background's has risen by."""
        return float(self.worths().mean())

    def worths(self, rung: int = -1) -> Tensor:
        """The same of each sample [N], at a rung."""
        subject, background = self.seen[rung]
        return subject + (background - 1) * (background.mean() > 1)

    def note(self, step: int, seen: Tensor) -> None:
        """What was measured of it after so many steps."""
        self.seen.append(seen)
        worths = self.worths()
        self.curve.append((step, *seen.mean(1).tolist(), float(worths.std() / math.sqrt(len(worths)))))


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

    The subject is compared on the held-out photos, the background on the same with theirs swapped for plain and graded
    colours; without held-out photos both on other crops of the training photos with swapped backgrounds. Raises
    AttractorError for sets without masks, and what the watcher raises.
    """
    from ..training.device import deterministic
    from ..training.run import TrainingRun
    from ..training.side_by_side import SideBySide
    from ..training.watcher import Silent

    for name, photos in (("train_set", subject), ("held_out_set", held_out)):
        if photos is not None and len(photos):
            _check_masks(name, photos)
    watcher = watcher or Silent()
    background = min(settings.background_steps, max(1, pilot_steps * 3 // 4)) if settings.background_steps else 0
    short = replace(settings, representation="TI", background_steps=background, steps=pilot_steps,
                    background_change="none")  # fmt: skip
    with torch.inference_mode(False), deterministic():
        run = TrainingRun(model, subject, short, None, watcher)
        with torch.no_grad():
            unseen = _Unseen.of(model, subject, held_out, settings, watcher)
        pilots = [Pilot(s, 0.0) for s in STRENGTHS] + [Pilot(1.0, WIDE_FEATHER)]
        variants = [_variant(run, subject, pilot) for pilot in pilots]
        with model.training(SideBySide.batch_of(run, len(pilots)), settings.resolution):
            run.learn_background()
            side = SideBySide(run, variants, pilot_steps)
            plain = unseen.errors(side, [run.class_word()])[0]
            alive = list(range(len(pilots)))
            for step in range(1, pilot_steps + 1):
                losses = side.step()
                done, total = background + step, background + pilot_steps
                for i, value in zip(alive, losses, strict=True):
                    if not math.isfinite(value):
                        said = f"The loss of the pilot with {pilots[i].name} became {value} at step {step}"
                        raise AttractorError(f"{said}: lower learning_rate.")
                watcher.step(done, total, min(losses), f"{len(alive)} pilots")
                if step in {max(1, round(rung * pilot_steps)) for rung in _RUNGS}:
                    measured = unseen.errors(side, side.smooth)
                    if not torch.isfinite(measured).all():
                        raise AttractorError("A pilot's error is no number: lower learning_rate.")
                    for i, own in zip(alive, measured, strict=True):
                        pilots[i].note(step, _over(own, plain))
                    kept = _kept([pilots[i] for i in alive])
                    if step < pilot_steps and len(kept) < len(alive):
                        side.keep(kept)
                        alive = [alive[k] for k in kept]
    return _decide(pilots, [pilots[i] for i in alive], settings, unseen.what)


def _check_masks(name: str, photos: SubjectSet) -> None:
    """Raise AttractorError for a set of which nobody can say what is subject and what is background."""
    if not photos.has_masks or all(float(p.mask.mean()) > 0.98 for p in photos.photos if p.mask is not None):
        raise AttractorError(
            f"{name} has no masks to weigh by: wire it through Attractor Mask first (before Split Subject, so that "
            "both sides have them)."
        )


@dataclass(frozen=True)
class _Unseen:
    """What pilots are compared on: views for the subject's error and for the background's, and fixed draws of both."""

    subject: Views
    background: Views
    draws: tuple[Sequence[Draw], Sequence[Draw]]
    what: str

    @classmethod
    def of(
        cls, model: DiffusionModel, train: SubjectSet, held_out: SubjectSet | None, settings: TrainSettings,
        watcher: Watcher,
    ) -> _Unseen:  # fmt: skip
        """Of the held-out photos, or of crops of the training photos that are not among the training's views."""
        from ..training.augment import swapped
        from ..training.objective import fixed_draws
        from ..training.views import make_views

        generator = torch.Generator().manual_seed(settings.seed + 6)
        given = held_out if held_out is not None and len(held_out) else None
        photos = (given or train).photos
        changed = train.with_photos(replace(photo, pixels=swapped(photo.pixels, photo.mask, generator))
                                    for photo in photos if photo.mask is not None for _ in range(2))  # fmt: skip
        zoom = max(settings.zoom, _CROP)

        def views(photos: SubjectSet) -> Views:
            made = make_views(model, photos, settings.resolution, _VIEWS, zoom, False, settings.seed + 6,
                              nearer=settings.nearer, watch=watcher.encoding)  # fmt: skip
            if given:
                return made
            cropped = torch.arange(len(made.photo), device=made.photo.device) % _VIEWS > 0  # the first is the whole
            return replace(made, latents=made.latents[cropped], masks=made.masks[cropped], photo=made.photo[cropped],
                           changed=made.changed[cropped], shoot=made.shoot[cropped])  # fmt: skip

        background = views(changed)
        subject = views(given) if given else background
        batch, seed = settings.batch_size * 2, settings.seed + 5
        draws = [fixed_draws(model, one, _SAMPLES, batch, seed) for one in (subject, background)]
        count = len(photos)
        what = f"{count} held-out photos" if given else f"crops of {count} photos with swapped backgrounds"
        return cls(subject, background, (draws[0], draws[1]), what)

    def errors(self, side: SideBySide, vectors: Sequence[Embedding]) -> Tensor:
        """Errors of the subject and of other backgrounds: [variants, 2, N]."""
        other = side.measure(self.background, self.draws[1], vectors)
        if self.subject is self.background:
            return other
        own = side.measure(self.subject, self.draws[0], vectors)
        return torch.stack([own[:, 0], other[:, 1]], 1)


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


def _over(own: Tensor, plain: Tensor) -> Tensor:
    """Errors [2, N] over the class word's: 1 and each sample's own difference, over the mean of the class word's."""
    return 1 + (own - plain) / plain.mean(1, keepdim=True).clamp(min=1e-9)


def _kept(pilots: Sequence[Pilot]) -> list[int]:
    """The better half, the best one in any case; of those that are not certainly worse than it, the strongest first."""
    equal, best = _as_good(pilots), min(pilots, key=lambda p: p.worth)

    def rank(k: int) -> tuple:
        pilot = pilots[k]
        if pilot is best:
            return (0,)
        return (1, -pilot.strength, pilot.feather) if pilot in equal else (2, pilot.worth)

    return sorted(sorted(range(len(pilots)), key=rank)[: max(2, math.ceil(len(pilots) / 2))])


def _as_good(pilots: Sequence[Pilot]) -> list[Pilot]:
    """The best pilot, and those that are not certainly worse: all see the same pictures, noises and timesteps."""
    best = min(pilots, key=lambda p: p.worth)
    return [p for p in pilots if p is best or _worse(p.worths(), best.worths()) <= _CERTAIN]


def _worse(first: Tensor, second: Tensor) -> float:
    """By how many standard errors of the paired difference the first values [N] lie above the second."""
    apart = first - second
    error = float(apart.std() / math.sqrt(len(apart)))
    return float(apart.mean()) / error if error > 0 else 0.0


def _decide(pilots: Sequence[Pilot], left: Sequence[Pilot], settings: TrainSettings, what: str) -> Proposal:
    """The strongest of those as good as the best one, for a strong attractor is what protects later steps."""
    chosen = max(_as_good(left), key=lambda p: (p.strength, -p.feather))
    steps = _steps(chosen, settings)

    def behind(pilot: Pilot) -> float:
        rung = len(pilot.seen) - 1
        return float((pilot.worths(rung) - chosen.worths(rung)).mean())

    worst = max((p for p in pilots if p is not chosen), key=behind)
    rung = len(worst.curve) - 1
    (step, *_), (_, subject, background, _) = worst.curve[rung], chosen.curve[rung]
    sentence = (
        f"{chosen.name.capitalize()}: on {what} the subject's error is {subject:.0%} of the class word's after {step} "
        f"steps, and {background:.0%} on other backgrounds; {worst.name} came to {worst.curve[rung][1]:.0%} and "
        f"{worst.curve[rung][2]:.0%}. {steps} steps."
    )
    return Proposal(chosen.strength, chosen.feather, steps, tuple(pilots), sentence, what)


def _steps(pilot: Pilot, settings: TrainSettings) -> int:
    """The settings' own number, unless the subject's error on unseen pictures rises for certain: then twice
    the steps after which it did. (That it no longer falls is no reason to stop: docs/notes.md.)
    """
    for (step, *_), before, after in zip(pilot.curve, pilot.seen, pilot.seen[1:], strict=False):
        if _worse(after[0], before[0]) > _CERTAIN:
            return min(settings.steps, 2 * step)
    return settings.steps
