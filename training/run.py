"""One training run: the background's tokens first, until they explain it, then the subject beside them.

After Li et al., "Towards More Accurate Personalized Image Generation", arXiv 2503.06632, in spirit; the order, the
stopping rules and the prompts are this project's own (docs/notes.md has the trials).
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..attractor.errors import AttractorError
from .concept import Concept
from .device import backward, is_out_of_memory
from .history import History, has_settled, latest_as_good
from .measuring import SAMPLES, Measuring
from .model import DiffusionModel, Embedding
from .objective import Draw, Part, Subject, draw, loss
from .photos import SubjectSet
from .representations import SD15_TABLE_SCALE, build, restore
from .resume import Progress, RunFolder
from .rights import check_rights, check_start
from .running_mean import RunningMean
from .schedules import rate_factor
from .settings import TrainSettings
from .shoots import shoots
from .starts import norms_of, spread, word_vectors
from .views import Views, make_views
from .watcher import Watcher

_SHOWN_SAMPLES = 8  # of the train photos: the held-out ones decide, these only show in the curve
_BACKGROUND_WORDS = "plain white"  # from which background tokens start

log = logging.getLogger(__name__)

Steps = Generator[str, None, None]
"""A phase of a run, driven from outside: it yields the phase's name where it wants the gradients of a random batch; who
drives it adds them up, says the loss by `TrainingRun.loss_was`, and goes on. An error is thrown into it, so that it
saves its last whole step.
"""


class TrainingRun:
    """One training run: the representation, the background tokens, the encoded views and the generator.

    `learn_background`, then `learn_subject`, both within model.training(); `concept` then gives what is to be kept.
    """

    def __init__(
        self, model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, held_out: SubjectSet | None,
        watcher: Watcher, runs: RunFolder | None = None, start_from: Concept | None = None,
    ):  # fmt: skip
        for photos in (subject, held_out):
            if photos is not None:
                check_rights(photos)
        check_start(start_from.run_card if start_from else {})
        self.model, self.settings, self.watcher, self.set, self._runs = model, settings, watcher, subject, runs
        self.history = History()
        self.generator = torch.Generator().manual_seed(settings.seed)
        s = settings
        with torch.no_grad():
            self.views = make_views(
                model, subject, s.resolution, s.views, s.zoom, s.flip, s.seed, s.colour, s.background_change, s.nearer,
                watcher.encoding,
            )  # fmt: skip
            self.held_out = None
            if held_out is not None and len(held_out):
                near = s.nearer_to_measure
                self.held_out = make_views(model, held_out, s.resolution, 1, 1.0, False, s.seed, nearer=near,
                                           watch=watcher.encoding)  # fmt: skip
        self.scale = model.table_scale()
        s.check_start(start_from is not None)
        own = start_from.vectors if start_from else word_vectors(model, subject.class_word, s.start)
        own = {key: rows.to(model.device) for key, rows in own.items()}
        count = len(next(iter(own.values()))) if start_from else s.vectors
        off_the_table = s.start == "encoded word" or start_from is not None
        own_scale = {key: float(rows.std()) for key, rows in own.items()} if off_the_table else self.scale
        start = spread(own, count, own_scale, self.generator)
        self.own_scale = self.scale if s.norm == "vocabulary" else own_scale
        word = own if start_from else model.words(subject.class_word)
        self.representation = build(s.representation, start, word, model.layers, s.seed).to(model.device)
        self.representation.generator = self.generator
        self.representation.norms_held = norms_of(s.norm, start, self.scale)
        self.representation.hold_norms()
        self.representation.requires_grad_(False)
        self.backgrounds = self._start_backgrounds()
        self._own = self.views.unchanged()  # those that show the background which is to be explained
        vectors = len(next(iter(self.representation.plain().values())))
        self._word = {key: rows[torch.arange(vectors) % len(rows)] for key, rows in self.class_word().items()}
        self._mean = RunningMean(self.representation, settings.ema)
        self.measuring = Measuring(model, settings, self.representation, self._mean)
        self._best = self._copy()
        self._kept: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self.has_background = float((1 - self._own.masks).mean()) > 0.02
        self._progress = runs.load() if runs else None
        if self._progress is not None:
            self._restore(self._progress)
        self._parts = 1
        self._number = math.nan

    @property
    def vectors(self) -> Embedding:
        """The plain embedding as it is now; the parameters themselves in Textual Inversion."""
        return self.representation.plain()

    @property
    def apart(self) -> bool:
        """The background can be learnt first, by itself: there are tokens for it, and masks that show it."""
        return bool(self.backgrounds) and self.has_background and self.settings.background_steps > 0

    def concept(self, card: dict | None = None) -> Concept:
        """What is to be kept."""
        kept = restore(self.representation.kind, self._best)
        plain = {key: value.detach().to("cpu", torch.float32, copy=True) for key, value in kept.plain().items()}
        state = {} if kept.kind == "TI" else self._best
        return Concept(plain, self.set.class_word, card or {}, kept.kind, state)

    def learn_background(self) -> None:
        """Train the background tokens on background pixels until their fixed loss no longer falls; freeze them."""
        self._alone(self.background_steps())

    def learn_subject(self, preview_every: int = 0) -> None:
        """Train the representation; where the background was not learnt first, its tokens beside it."""
        self._alone(self.subject_steps(preview_every))

    def _alone(self, steps: Steps) -> None:
        for phase in steps:
            try:
                self.loss_was(self.gradients(phase))
            except BaseException as error:
                steps.throw(error)

    def loss_was(self, value: float) -> None:
        """The loss of the batch whose gradients have been added up."""
        self._number = value

    def background_steps(self) -> Steps:
        """The first phase, step by step: yields where gradients are wanted, see `Steps`."""
        if not self.apart:
            return
        limit = self.settings.background_steps
        fixed = self.measuring.draws(self._own, 1, min(SAMPLES, 12 * self.settings.batch_size))
        every = self.measuring.every(limit, fixed)

        def after(step: int) -> bool:
            if step % every and step != limit:
                return False
            value = float(self._measured(self._own, fixed, self.backgrounds, "background").mean())
            self.history.background.append((step - limit, value))
            self.watcher.measured(self.history)
            return self.has_settled([v for _, v in self.history.background])

        if self._progress is None or self._progress.phase == "background":
            groups = [{"params": [v], "lr": self.rate_of(key)} for one in self.backgrounds for key, v in one.items()]
            _require_grad([v for group in groups for v in group["params"]], True)
            self.history.background_steps = yield from self._optimise(groups, limit, "background", after)
        _require_grad([t for b in self.backgrounds for t in b.values()], False)

    def subject_steps(self, preview_every: int = 0) -> Steps:
        """The second phase, step by step."""
        steps = self.settings.steps
        together = self.backgrounds if self.backgrounds and not self.apart else []
        fixed = self.measuring.draws(self.views, 2, _SHOWN_SAMPLES)
        held = self.measuring.draws(self.held_out, 3) if self.held_out else []
        every = self.measuring.every(steps, [*fixed, *held])

        def after(step: int) -> bool:
            if step % every == 0 or step == steps:
                values = self._measured(self.views, fixed, self.backgrounds, "subject")
                self.history.train.append((step, float(values.mean())))
                if self.held_out:
                    values = self._measured(self.held_out, held, (), "subject")
                    self.history.held_out.append((step, float(values.mean())))
                    self._kept.append((step, self._copy(), values))
                self.watcher.measured(self.history)
            if preview_every and step % preview_every == 0:
                self._best = self._copy()
                with self.model.paused(), torch.no_grad():
                    self.watcher.preview(step, self.concept())
            return False

        groups = self.representation.groups(self.settings.learning_rate, self.own_scale)
        groups += [{"params": [v], "lr": self.rate_of(key)} for one in together for key, v in one.items()]
        _require_grad([v for group in groups for v in group["params"]], True)
        yield from self._optimise(groups, steps, "subject", after)
        self._choose(steps)

    def measure_plain(self) -> dict[str, float]:
        """Fixed losses of what is kept and of its plain embedding, on the held-out photos if there are any.

        Empty for Textual Inversion, which is its own plain embedding.
        """
        if self.representation.kind == "TI":
            return {}
        self.representation.load_state_dict(self._best)
        self._mean.forget()
        views = self.held_out or self.views
        fixed = self.measuring.draws(views, 3)
        own = float(self._measured(views, fixed, (), "subject").mean())
        plain = float(self._measured(views, fixed, (), "subject", self.representation.plain()).mean())
        return {"own": own, "plain": plain}

    def _optimise(
        self, groups: list[dict], steps: int, phase: str, after: Callable[[int], bool]
    ) -> Generator[str, None, int]:
        """AdamW with a schedule of its rate; gives the number of steps taken before `after` said to stop.

        Goes on where the saved progress ends. When something is raised, the last whole step is saved first.
        """
        optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        # in half precision small gradients would round to zero on their way through the U-Net
        scaler = torch.amp.GradScaler(self.model.device.type, enabled=self.model.compute_dtype == torch.float16)
        self.scaler = scaler
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda i: rate_factor(self.settings.schedule, i, steps)
        )
        done, limit = 0, self.settings.background_steps if self.apart else 0
        if self._progress is not None:
            done = self._progress.step
            _continue(self._progress, optimiser, scaler, schedule)
            self._progress = None
            if after(done):
                return done
        progress = None
        try:
            for step in range(done + 1, steps + 1):
                if phase == "subject":
                    self.representation.begin(step, steps)
                yield phase
                number = self._number
                if not math.isfinite(number):
                    raise AttractorError(
                        f"The loss became {number} at step {step} of the {phase}. Nothing was kept. Lower "
                        f"learning_rate (now {self.settings.learning_rate:g}); if it happens at step 1, the MODEL or "
                        "the photos' latents hold NaN: try the VAE or the model in another precision."
                    )
                progress = None  # the step is not whole while the optimiser is at it
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad(set_to_none=True)
                schedule.step()
                if phase == "subject":
                    self.representation.hold_norms()
                    self._mean.draw(step)
                self.history.losses.append((step - steps if phase == "background" else step, number))
                progress = self._runs and Progress.at(phase, step, self.history, len(self._kept), self.generator)
                if self._runs and progress and self._runs.is_due():
                    self._save(progress, optimiser, scaler)
                ends = after(step)
                taken = step + (limit if phase == "subject" else 0)
                self.watcher.step(taken, limit + self.settings.steps, number, phase)
                if ends:
                    return step
        except BaseException as error:
            if progress and not isinstance(error, AttractorError):
                self._save(progress, optimiser, scaler)
            raise
        return steps

    def _save(self, progress: Progress, optimiser: Any, scaler: Any) -> None:
        if self._runs is not None:
            own = {"representation": self.representation.state_dict(), "mean": self._mean.numbers,
                   "backgrounds": self.backgrounds}  # fmt: skip
            self._runs.save(progress, {**own, "optimiser": optimiser.state_dict(), "scaler": scaler.state_dict()},
                            self._kept)  # fmt: skip

    def _restore(self, progress: Progress) -> None:
        """Put the saved state in the place of the start."""
        self.history = progress.history
        self.generator.set_state(progress.generator)
        self.representation.load_state_dict(progress.state["representation"])
        self._mean.load(progress.state["mean"], self.model.device)
        self._kept = progress.kept
        with torch.no_grad():
            for own, saved in zip(self.backgrounds, progress.state["backgrounds"], strict=True):
                for key, value in own.items():
                    value.copy_(saved[key])

    def has_settled(self, values: list[float]) -> bool:
        """Whether the background is explained."""
        return has_settled(values)

    def random(self, phase: str) -> Draw:
        """What is random in a step of a phase."""
        views, s = self._own if phase == "background" else self.views, self.settings
        return draw(self.model, views, s.batch_size, self.generator, s.timestep_sampling)

    def part(self, phase: str, random: Draw) -> Part:
        """What a step of a phase looks at."""
        s, views = self.settings, self._own if phase == "background" else self.views
        keeps = s.keeps_context if phase == "subject" else 0.0
        return Part(views, random, self.representation, self.backgrounds, s.strength, phase, s.min_snr, keeps,
                    self._word)  # fmt: skip

    def gradients(self, phase: str) -> float:
        """Add up the gradients of one random batch; its loss.

        When memory runs out, the same batch is done again with less: first activations are computed anew in backward
        in the place of being kept, then the batch goes through in two halves. A third time the error is raised.
        """
        self.representation.train(phase == "subject")
        before = self.generator.get_state()
        while True:
            random = self.random(phase)
            try:
                total = 0.0
                for part in random.split(self._parts):
                    value = self.step_losses(phase, part).sum() / len(random.index)
                    total += float(value.detach())
                    if math.isfinite(total):
                        backward(self.scaler.scale(value))
                return total
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._make_room():
                    raise
            gc.collect()  # what the failed step held
            self.forget(before)

    def forget(self, state: Tensor) -> None:
        """Undo a step that failed: gradients, and the generator's state."""
        self.generator.set_state(state)
        for parameter in (*self.representation.parameters(), *(v for b in self.backgrounds for v in b.values())):
            parameter.grad = None

    def note_memory(self, anew: bool) -> None:
        """Say that activations are computed anew where nobody has asked for it."""
        if anew and not self.settings.checkpointing:
            note = ("a step would take more memory than there is beside the models: activations are computed anew in "
                    "backward from the start, which takes longer")  # fmt: skip
            log.warning("Training: %s.", note)
            if note not in self.history.notes:  # of a training that goes on
                self.history.notes.append(note)

    def _make_room(self) -> bool:
        """Take the next measure against running out of memory; False when there is none left."""
        if self.model.save_memory():
            note = "memory ran out: from here on activations are computed anew in backward, which takes longer"
        elif self._parts == 1 and self.settings.batch_size > 1:
            self._parts = 2
            note = "memory ran out again: from here on each batch goes through in two halves, with the same gradient"
        else:
            return False
        log.warning("Training: %s.", note)
        self.history.notes.append(f"step {len(self.history.losses) + 1}: {note}")
        return True

    def step_losses(self, phase: str, random: Draw) -> Tensor:
        """The losses [B] of the samples of a step, in the phase "background" or "subject"."""
        return loss(self.model, self.part(phase, random))

    def _measured(
        self, views: Views, draws: Sequence[Draw], backgrounds: Sequence[Embedding], part: str,
        subject: Subject | None = None,
    ) -> Tensor:  # fmt: skip
        return self.measuring.losses(views, draws, backgrounds, part, self.history, subject)

    def _choose(self, steps: int) -> None:
        """Keep the last step that the held-out photos do not speak against."""
        if not self._kept:
            self._best, self.history.best_step = self._copy(), steps
            self.history.stopped = f"step {steps}: all steps taken (no held-out photos to stop by)"
            return
        chosen = latest_as_good([values for _, _, values in self._kept])
        self.history.best_step, self._best, _ = self._kept[chosen]
        self.history.stopped = (
            f"step {steps}: all steps taken, the held-out loss had not risen"
            if chosen == len(self._kept) - 1
            else f"step {self.history.best_step} of {steps}: from there on the held-out loss rose"
        )

    def _start_backgrounds(self) -> list[Embedding]:
        s = self.settings
        if s.background_scope == "none":
            return []
        if s.background_scope == "per shoot":
            numbers = torch.tensor(shoots(self.set), device=self.model.device)
            self.views = replace(self.views, shoot=numbers[self.views.photo])
            count = int(numbers.max()) + 1
        else:
            count = len(self.set) if s.background_scope == "per photo" else 1
        rows = word_vectors(self.model, _BACKGROUND_WORDS, "class word")
        return [spread(rows, s.background_vectors, self.scale, self.generator) for _ in range(count)]

    def class_word(self) -> Embedding:
        """The class word's own rows of the embedding tables, on the model's device."""
        return {key: rows.to(self.model.device) for key, rows in self.model.words(self.set.class_word).items()}

    def rate_of(self, key: str) -> float:
        """The learning rate in units of the embedding table of the text encoder `key`."""
        return self.settings.learning_rate * self.scale[key] / SD15_TABLE_SCALE

    def _copy(self) -> dict[str, Tensor]:
        """The representation's numbers as they are now, or their running mean."""
        state = self._mean.numbers or self.representation.state_dict()
        return {k: v.detach().to("cpu", copy=True) for k, v in state.items()}


def _continue(progress: Progress, optimiser: Any, scaler: Any, schedule: Any) -> None:
    """Bring optimiser, scaler and schedule to where they were after the saved step."""
    optimiser.load_state_dict(progress.state["optimiser"])
    scaler.load_state_dict(progress.state["scaler"])
    schedule.last_epoch = progress.step
    for group, rate, factor in zip(optimiser.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = rate * factor(progress.step)


def _require_grad(parameters: Sequence[Tensor], on: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(on)
