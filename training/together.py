"""Several trainings side by side in one batch of the shared U-Net: subjects, seeds or settings."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..attractor.errors import AttractorError
from .concept import Concept
from .device import backward, deterministic, is_out_of_memory
from .history import History
from .model import DiffusionModel
from .objective import losses
from .photos import SubjectSet
from .resume import RunFolder
from .run import Steps, TrainingRun
from .run_card import run_card
from .settings import TrainSettings
from .watcher import Silent, Watcher

_CELLS = 32 * 64 * 64  # latent cells in one batch, at most: eight trainings of batch 4 at 512 pixels

log = logging.getLogger(__name__)


@dataclass
class Job:
    """One of several trainings; see `loop.train` for its parts."""

    subject: SubjectSet
    settings: TrainSettings
    held_out: SubjectSet | None = None
    watcher: Watcher | None = None
    preview_every: int = 0
    runs: RunFolder | None = None
    start_from: Concept | None = None

    def run(self, model: DiffusionModel) -> TrainingRun:
        """The run, before its first step."""
        watcher = self.watcher or Silent()
        return TrainingRun(model, self.subject, self.settings, self.held_out, watcher, self.runs, self.start_from)


def train_together(model: DiffusionModel, jobs: Sequence[Job]) -> list[tuple[Concept, History]]:
    """What `loop.train` gives for each job, from steps that all take at once.

    Each has its own generator, optimiser and stopping, and learns what it would have learnt alone up to the last bits,
    which depend on the batch. Trainings that differ in resolution or representation take turns. When memory runs out
    fewer go in one batch; when one fails or is cancelled all of them stop, and those with a folder save where they are.
    Raises what `loop.train` raises, with the job's subject in the message.
    """
    started = time.perf_counter()
    if any(not len(job.subject) for job in jobs):
        raise AttractorError("The train set has no photos.")
    try:
        with torch.inference_mode(False), deterministic():
            runs = [job.run(model) for job in jobs]
            plain: dict[int, dict[str, float]] = {}
            for alike in _alike(jobs):
                settings = [jobs[i].settings for i in alike]
                anew, side = any(s.checkpointing for s in settings), settings[0].resolution
                samples = _samples(model, settings, anew)
                with model.training(samples, side, anew) as anew:
                    for i in alike:
                        runs[i].note_memory(anew)
                    _Batch(model, [runs[i] for i in alike], [jobs[i] for i in alike], samples).train()
                    plain |= {i: runs[i].measure_plain() for i in alike}
            found = []
            for i, (job, run) in enumerate(zip(jobs, runs, strict=True)):
                seconds = (time.perf_counter() - started) / len(jobs)
                card = run_card(model, job.subject, job.settings, job.held_out, run.history, plain[i], seconds,
                                job.start_from)  # fmt: skip
                card["trained_together"] = len(jobs)
                if job.runs is not None:
                    job.runs.finish(card, run.history)
                found.append((run.concept(card), run.history))
            return found
    finally:
        for job in jobs:
            if job.runs is not None:
                job.runs.close()


def _alike(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Indices of jobs that can share a batch."""
    groups: dict[tuple, list[int]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault((job.settings.resolution, job.settings.representation), []).append(i)
    yield from groups.values()


def most_together(resolution: int) -> int:
    """Samples that several trainings may put into one batch."""
    return max(1, _CELLS // (resolution // 8) ** 2)


def _samples(model: DiffusionModel, settings: Sequence[TrainSettings], anew: bool) -> int:
    """Samples in one batch: those of all trainings, or as many as there is room for, but at least those of one."""
    largest, side = max(s.batch_size for s in settings), settings[0].resolution
    samples = max(largest, min(sum(s.batch_size for s in settings), most_together(side)))
    while samples > largest and not anew and not model.has_room(samples, side):
        samples = max(largest, samples // 2)
    return samples


class _Batch:
    """Runs that share batches of at most so many samples, within model.training()."""

    def __init__(self, model: DiffusionModel, runs: Sequence[TrainingRun], jobs: Sequence[Job], samples: int):
        self._model, self._runs, self._jobs, self._samples = model, list(runs), list(jobs), samples

    def train(self) -> None:
        """Both phases of each run; one that is done with its background goes on with its subject at once."""
        going: dict[int, Steps] = {i: self._phases(i) for i in range(len(self._runs))}
        waiting: dict[int, str] = {}
        try:
            for i in list(going):
                self._advance(i, going, waiting)
            while waiting:
                for group in self._groups(list(waiting)):
                    self._step({i: waiting[i] for i in group})
                    for i in group:
                        self._advance(i, going, waiting)
        except BaseException:
            for steps in going.values():
                steps.close()  # each saves its last whole step
            raise

    def _phases(self, i: int) -> Steps:
        yield from self._runs[i].background_steps()
        yield from self._runs[i].subject_steps(self._jobs[i].preview_every)

    def _advance(self, i: int, going: dict[int, Steps], waiting: dict[int, str]) -> None:
        """Let a run take its optimiser's step and go on to where it wants gradients again."""
        try:
            waiting[i] = next(going[i])
        except StopIteration:
            waiting.pop(i, None)
            going.pop(i)
        except AttractorError as error:
            going.pop(i)
            raise AttractorError(f"Training {i + 1} of {len(self._runs)} ({self._runs[i].set.class_word}): {error}"
                                 ) from error  # fmt: skip

    def _groups(self, waiting: Sequence[int]) -> Iterator[list[int]]:
        """As many at once as the batch may hold."""
        group: list[int] = []
        for i in waiting:
            size = self._runs[i].settings.batch_size
            if group and sum(self._runs[k].settings.batch_size for k in group) + size > self._samples:
                yield group
                group = []
            group.append(i)
        if group:
            yield group

    def _step(self, wanted: dict[int, str]) -> None:
        """Add up the gradients of one random batch of each run."""
        runs = [self._runs[i] for i in wanted]
        if len(runs) == 1:
            runs[0].loss_was(runs[0].gradients(*wanted.values()))
            return
        before = [run.generator.get_state() for run in runs]
        try:
            self._together(runs, list(wanted.values()))
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()
        for run, state in zip(runs, before, strict=True):
            run.forget(state)
        self._samples = max(1, sum(run.settings.batch_size for run in runs) // 2)
        note = f"memory ran out: from here on at most {self._samples} samples of several trainings go through together"
        log.warning("Training: %s.", note)
        for run in self._runs:
            run.history.notes.append(note)
        for group in self._groups(list(wanted)):
            self._step({i: wanted[i] for i in group})

    def _together(self, runs: Sequence[TrainingRun], phases: Sequence[str]) -> None:
        for run, phase in zip(runs, phases, strict=True):
            run.representation.train(phase == "subject")
        parts = [run.part(phase, run.random(phase)) for run, phase in zip(runs, phases, strict=True)]
        values = [each.mean() for each in losses(self._model, parts)]
        good = [run.scaler.scale(value) for run, value in zip(runs, values, strict=True)
                if math.isfinite(float(value.detach()))]  # fmt: skip
        if good:
            backward(torch.stack(good).sum())
        for run, value in zip(runs, values, strict=True):
            run.loss_was(float(value.detach()))
