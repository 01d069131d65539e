"""The training loop: the background's tokens first, until they explain it, then the subject beside them.

After Li et al., "Towards More Accurate Personalized Image Generation", arXiv 2503.06632, in spirit; the order, the
stopping rules and the prompts are this project's own (docs/notes.md has the trials).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.utils.deterministic
from torch import Tensor

from ..attractor.errors import AttractorError
from .concept import Concept
from .model import DiffusionModel, Embedding
from .objective import draw, fixed_draws, loss
from .photos import SubjectSet
from .settings import TrainSettings
from .views import Views, make_views

SD15_TABLE_SCALE = 0.0139  # standard deviation of SD1.5's token embeddings, to which published rates refer
_EVALUATIONS = 12  # measurements of the fixed losses in a run
_FIXED_SAMPLES = 24
_PLATEAU = 0.01  # the background is explained when its loss falls by less than this part ...
_PATIENCE = 3  # ... over so many measurements


class Watcher(Protocol):
    """Is told about every step; whatever it raises, such as the host's Cancel, ends the training."""

    def step(self, done: int, total: int, value: float, phase: str) -> None: ...
    def measured(self, history: History) -> None: ...
    def preview(self, done: int, concept: Concept) -> None: ...


@dataclass
class History:
    """What was measured. losses: (step, value) of every step, background steps counted below zero.

    background, train, held_out: (step, loss) on fixed noise and timesteps. best_step: the one that was kept.
    stopped: why that one, in words.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    background: list[tuple[int, float]] = field(default_factory=list)
    train: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    background_steps: int = 0
    stopped: str = ""


class Silent:
    """A watcher that looks away."""

    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """Nothing."""

    def measured(self, history: History) -> None:
        """Nothing."""

    def preview(self, done: int, concept: Concept) -> None:
        """Nothing."""


def train(
    model: DiffusionModel,
    subject: SubjectSet,
    settings: TrainSettings,
    held_out: SubjectSet | None = None,
    watcher: Watcher | None = None,
    preview_every: int = 0,
) -> tuple[Concept, History]:
    """Learn a concept from the train set.

    Uses the masks of the set where it has them. With a held-out set the last step is kept at which the held-out loss
    has not risen for certain above its lowest (see `latest_as_good`).
    preview_every: steps between two calls of watcher.preview; 0 for none.
    Raises AttractorError for an unusable set or a loss that is no number, and whatever the watcher raises.
    """
    if not len(subject):
        raise AttractorError("The train set has no photos.")
    started = time.perf_counter()
    with torch.inference_mode(False), deterministic():
        run = TrainingRun(model, subject, settings, held_out, watcher or Silent())  # encodes before weights are lent
        with model.training(settings.batch_size, settings.resolution):
            run.learn_background()
            run.learn_subject(preview_every)
        vectors = run.best
    card = _run_card(model, subject, settings, held_out, run.history, time.perf_counter() - started)
    return Concept(vectors, subject.class_word, card), run.history


class TrainingRun:
    """One training run: the vectors, the encoded views and the generator.

    `learn_background`, then `learn_subject`, both within model.training(); `best` holds the vectors to keep.
    """

    def __init__(
        self, model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, held_out: SubjectSet | None,
        watcher: Watcher,
    ):  # fmt: skip
        self.model, self.settings, self.watcher, self.set = model, settings, watcher, subject
        self.history = History()
        self.generator = torch.Generator().manual_seed(settings.seed)
        s = settings
        with torch.no_grad():
            self.views = make_views(model, subject, s.resolution, s.views, s.zoom, s.flip, s.seed)
            self.held_out = None
            if held_out is not None and len(held_out):
                self.held_out = make_views(model, held_out, s.resolution, 1, 1.0, False, s.seed)
        self.scale = model.table_scale()
        self.vectors = self._start(subject.class_word, s.vectors)
        self.backgrounds = self._start_backgrounds()
        self.best = self._copy()
        self._kept: list[tuple[int, Embedding, Tensor]] = []
        self.has_background = float((1 - self.views.masks).mean()) > 0.02

    @property
    def apart(self) -> bool:
        """The background can be learnt first, by itself: there are tokens for it, and masks that show it."""
        return bool(self.backgrounds) and self.has_background and self.settings.background_steps > 0

    def learn_background(self) -> None:
        """Train the background tokens on background pixels until their fixed loss no longer falls; freeze them."""
        if not self.apart:
            return
        limit = self.settings.background_steps
        fixed = fixed_draws(self.model, self.views, _FIXED_SAMPLES, self.settings.batch_size, self.settings.seed + 1)
        every = max(1, limit // _EVALUATIONS)

        def after(step: int) -> bool:
            if step % every and step != limit:
                return False
            value = float(self._measure(self.views, fixed, self.backgrounds, "background").mean())
            self.history.background.append((step - limit, value))
            self.watcher.measured(self.history)
            return self.has_settled([v for _, v in self.history.background])

        taken = self._optimise(self.backgrounds, limit, "background", after)
        self.history.background_steps = taken
        _require_grad([t for b in self.backgrounds for t in b.values()], False)

    def learn_subject(self, preview_every: int) -> None:
        """Train the subject's vectors; where the background was not learnt first, its tokens beside them."""
        steps = self.settings.steps
        together = bool(self.backgrounds) and not self.apart
        fixed = fixed_draws(self.model, self.views, _FIXED_SAMPLES, self.settings.batch_size, self.settings.seed + 2)
        held = self.held_out and fixed_draws(
            self.model, self.held_out, _FIXED_SAMPLES, self.settings.batch_size, self.settings.seed + 3
        )
        every = max(1, steps // _EVALUATIONS)

        def after(step: int) -> bool:
            if step % every == 0 or step == steps:
                values = self._measure(self.views, fixed, self.backgrounds, "subject")
                self.history.train.append((step, float(values.mean())))
                if self.held_out and held:
                    values = self._measure(self.held_out, held, (), "subject")
                    self.history.held_out.append((step, float(values.mean())))
                    self._kept.append((step, self._copy(), values))
                self.watcher.measured(self.history)
            if preview_every and step % preview_every == 0:
                concept = Concept(self._copy(), self.set.class_word)
                with self.model.paused(), torch.no_grad():
                    self.watcher.preview(step, concept)
            return False

        self._optimise([self.vectors, *(self.backgrounds if together else ())], steps, "subject", after)
        self._choose(steps)

    def _optimise(
        self, embeddings: Sequence[Embedding], steps: int, phase: str, after: Callable[[int], bool]
    ) -> int:
        """AdamW with warm-up and cosine decay; gives the number of steps taken before `after` said to stop."""
        _require_grad([value for one in embeddings for value in one.values()], True)
        groups = [{"params": [value], "lr": self.rate_of(key)} for one in embeddings for key, value in one.items()]
        optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        # in half precision small gradients would round to zero on their way through the U-Net
        scaler = torch.amp.GradScaler(self.model.device.type, enabled=self.model.compute_dtype == torch.float16)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _warm_cosine(i, steps))
        for step in range(1, steps + 1):
            value = self.step_loss(phase)
            number = float(value.detach())
            if not math.isfinite(number):
                raise AttractorError(
                    f"The loss became {number} at step {step} of the {phase}. Nothing was kept. Lower learning_rate "
                    f"(now {self.settings.learning_rate:g}); if it happens at step 1, the MODEL or the photos' "
                    "latents hold NaN: try the VAE or the model in another precision."
                )
            scaler.scale(value).backward()
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            self.history.losses.append((step - steps if phase == "background" else step, number))
            limit = self.settings.background_steps if self.apart else 0
            done = step + (limit if phase == "subject" else 0)
            self.watcher.step(done, limit + self.settings.steps, number, phase)
            if after(step):
                return step
        return steps

    @staticmethod
    def has_settled(values: list[float]) -> bool:
        """The best of the last measurements of the background is hardly better than the best before them."""
        if len(values) <= _PATIENCE + 2:
            return False
        before, after = min(values[:-_PATIENCE]), min(values[-_PATIENCE:])
        return after > before * (1 - _PLATEAU)

    def step_loss(self, phase: str) -> Tensor:
        """The loss of one random batch, a scalar, in the phase "background" or "subject"."""
        random = draw(self.model, self.views, self.settings.batch_size, self.generator)
        strength = self.settings.strength
        return loss(self.model, self.views, random, self.vectors, self.backgrounds, strength, phase).mean()

    @torch.no_grad()
    def _measure(self, views: Views, draws: Sequence, backgrounds: Sequence[Embedding], part: str) -> Tensor:
        """Losses of the fixed samples: [N]."""
        strength = self.settings.strength
        parts = [loss(self.model, views, d, self.vectors, backgrounds, strength, part) for d in draws]
        values = torch.cat(parts).cpu()
        if not torch.isfinite(values).all():
            raise AttractorError(
                f"The loss became nan at step {len(self.history.losses)}, measured on the {part}. Nothing was kept. "
                "Lower learning_rate, or look for NaN in the MODEL or the VAE."
            )
        return values

    def _choose(self, steps: int) -> None:
        """Keep the last step that the held-out photos do not speak against."""
        if not self._kept:
            self.best, self.history.best_step = self._copy(), steps
            self.history.stopped = f"step {steps}: all steps taken (no held-out photos to stop by)"
            return
        chosen = latest_as_good([values for _, _, values in self._kept])
        self.history.best_step, self.best, _ = self._kept[chosen]
        self.history.stopped = (
            f"step {steps}: all steps taken, the held-out loss had not risen"
            if chosen == len(self._kept) - 1
            else f"step {self.history.best_step} of {steps}: from there on the held-out loss rose"
        )

    def _start(self, text: str, count: int) -> Embedding:
        """Vectors that start from the words of a text, in turn, a little apart from one another."""
        start = {}
        for key, rows in self.model.words(text).items():
            repeated = rows[torch.arange(count) % len(rows)].clone()
            noise = torch.randn(repeated.shape, generator=self.generator) * 0.1 * self.scale[key]
            noise[: len(rows)] = 0
            start[key] = (repeated.cpu() + noise).to(self.model.device)
        return start

    def _start_backgrounds(self) -> list[Embedding]:
        s = self.settings
        if s.background_scope == "none":
            return []
        count = len(self.set) if s.background_scope == "per photo" else 1
        return [self._start("plain white", s.background_vectors) for _ in range(count)]

    def class_word(self) -> Embedding:
        """The class word's own rows of the embedding tables, on the model's device."""
        return {key: rows.to(self.model.device) for key, rows in self.model.words(self.set.class_word).items()}

    def rate_of(self, key: str) -> float:
        """The learning rate in units of the embedding table of the text encoder `key`."""
        return self.settings.learning_rate * self.scale[key] / SD15_TABLE_SCALE

    def _copy(self) -> Embedding:
        return {key: value.detach().to("cpu", torch.float32, copy=True) for key, value in self.vectors.items()}


def latest_as_good(losses: Sequence[Tensor]) -> int:
    """Index of the last measurement whose loss is at most one standard error above the lowest.

    losses: one [N] a measurement, on the same N samples with the same noise, so that the standard error is that of
    the paired differences. The one-standard-error rule of Breiman et al., "Classification and Regression Trees",
    1984, with the latest in the place of the simplest.
    """
    lowest = min(losses, key=lambda values: float(values.mean()))
    for index in range(len(losses) - 1, -1, -1):
        difference = losses[index] - lowest
        error = float(difference.std()) / math.sqrt(max(1, len(difference))) if len(difference) > 1 else 0.0
        if float(difference.mean()) <= error:
            return index
    return 0


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels where there are any: sums of several threads would differ in the last bit each time."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill


def _require_grad(parameters: Sequence[Tensor], on: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(on)


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _run_card(
    model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, held_out: SubjectSet | None,
    history: History, seconds: float,
) -> dict:  # fmt: skip
    """How a concept was made: settings, versions, hashes; never a photo or a path."""
    certificate = subject.certificate
    return {
        "format": 1,
        "representation": "textual inversion",
        "settings": settings.card(),
        "base_model": model.identity,
        "prediction": model.prediction,
        "train_photos": [p.sha256 for p in subject.photos],
        "held_out_photos": [p.sha256 for p in held_out.photos] if held_out else [],
        "masks": "given" if subject.has_masks else "none",
        "split_certificate": certificate.sha256 if certificate else "",
        "versions": {"attractor": "0.1.0", "torch": torch.__version__},
        "seconds": round(seconds, 2),
        "background_steps": history.background_steps,
        "best_step": history.best_step,
        "stopped": history.stopped,
        "loss": {
            "background": _rounded(history.background),
            "train": _rounded(history.train),
            "held_out": _rounded(history.held_out),
        },
    }


def _rounded(points: list[tuple[int, float]]) -> list[list[float]]:
    return [[step, round(value, 6)] for step, value in points]
