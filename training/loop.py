"""The training loop: learn a concept from the train set, and stop before it memorises."""

from __future__ import annotations

import time

import torch

from ..attractor.errors import AttractorError
from .concept import Concept
from .device import deterministic
from .history import History
from .model import DiffusionModel
from .photos import SubjectSet
from .resume import RunFolder
from .run import TrainingRun
from .run_card import run_card
from .settings import TrainSettings
from .watcher import Silent, Watcher


def train(
    model: DiffusionModel,
    subject: SubjectSet,
    settings: TrainSettings,
    held_out: SubjectSet | None = None,
    watcher: Watcher | None = None,
    preview_every: int = 0,
    runs: RunFolder | None = None,
    start_from: Concept | None = None,
) -> tuple[Concept, History]:
    """Learn a concept from the train set.

    Uses the masks of the set where it has them. With a held-out set the last step is kept at which the held-out loss
    has not risen for certain above its lowest (see `latest_as_good`).
    preview_every: steps between two calls of watcher.preview; 0 for none. runs: keeps the state of an unfinished
    training, from which the same one goes on with the same numbers as if it had never stopped. start_from: a concept
    whose plain embedding the vectors start from, as many as it has, in the place of the class word.
    Raises AttractorError for an unusable set or a loss that is no number, and whatever the watcher raises.
    """
    if not len(subject):
        raise AttractorError("The train set has no photos.")
    started = time.perf_counter()
    try:
        with torch.inference_mode(False), deterministic():
            run = TrainingRun(model, subject, settings, held_out, watcher or Silent(), runs, start_from)
            # photos are encoded before weights are lent
            with model.training(settings.batch_size, settings.resolution, settings.checkpointing) as anew:
                run.note_memory(anew)
                run.learn_background()
                run.learn_subject(preview_every)
                plain_loss = run.measure_plain()
        seconds = time.perf_counter() - started
        card = run_card(model, subject, settings, held_out, run.history, plain_loss, seconds, start_from)
        if runs is not None:
            runs.finish(card, run.history)
        return run.concept(card), run.history
    finally:
        if runs is not None:
            runs.close()
