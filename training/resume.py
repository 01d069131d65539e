"""The folder of a training run: its state while it is not finished, its settings and its curve."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import logging
import pickle
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from .concept import Concept
from .events import Events
from .history import History
from .model import DiffusionModel
from .photos import SubjectSet
from .run_card import what_is_trained
from .settings import TrainSettings

_STATE, _CONFIG, _CURVE = "state.pt", "config.json", "curve.csv"
_SECONDS = 5.0  # between two states

log = logging.getLogger(__name__)

Kept = tuple[int, dict[str, Tensor], Tensor]
"""A step, the representation after it, and its held-out losses [N]."""


@dataclass
class Progress:
    """The last whole step of an unfinished training. generator: its state then; kept, state: see the loop."""

    phase: str
    step: int
    history: History
    generator: Tensor
    counts: dict[str, int]
    kept: list[Kept] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, phase: str, step: int, history: History, kept: int, generator: torch.Generator) -> Progress:
        """Cheap enough for every step: lists that only grow are remembered by their lengths."""
        lists = ("losses", "background", "train", "held_out")
        counts = {name: len(getattr(history, name)) for name in lists} | {"kept": kept}
        return cls(phase, step, history, generator.get_state(), counts)

    def as_it_was(self) -> History:
        """The history up to this step, without what a later, broken one may have added."""
        found = copy.copy(self.history)
        for name, count in self.counts.items():
            if name != "kept":
                setattr(found, name, getattr(self.history, name)[:count])
        return found


class RunFolder:
    """A run's folder, made when there is something to write.

    Holds config.json (all that the training follows from, then the run card), curve.csv, TensorBoard's events where
    tensorboard is installed, and state.pt until the training is finished. What cannot be written is reported in the log
    and does not stop the training.
    """

    def __init__(self, path: Path, what: dict, seconds: float = _SECONDS):
        self.path, self._what, self._seconds = path, what, seconds
        self._last = time.monotonic()
        self._warned = False
        self._events = Events(path)

    @classmethod
    def of(
        cls, parent: Path, model: DiffusionModel, subject: SubjectSet, settings: TrainSettings,
        held_out: SubjectSet | None = None, seconds: float = _SECONDS, start_from: Concept | None = None,
    ) -> RunFolder:  # fmt: skip
        """The folder in `parent` that belongs to this training and to no other."""
        masks = hashlib.sha256()
        for photo in (*subject.photos, *(held_out.photos if held_out else ())):
            masks.update(b"-" if photo.mask is None else photo.mask.contiguous().numpy().tobytes())
        what = {**what_is_trained(model, subject, settings, held_out, start_from), "device": model.device.type,
                "precision": str(model.compute_dtype), "mask_hash": masks.hexdigest(),
                "class_word": subject.class_word}  # fmt: skip
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        word = re.sub(r"[^\w-]+", "-", subject.class_word).strip("-")[:40] or "subject"
        return cls(parent / f"{word}-{key}", what, seconds)

    def is_due(self) -> bool:
        """Whether the last state is old enough for a new one."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, progress: Progress, state: dict[str, Any], kept: Sequence[Kept]) -> None:
        """Write the state beside its place, then rename."""
        self._last = time.monotonic()
        data = io.BytesIO()
        own = {"phase": progress.phase, "step": progress.step, "history": asdict(progress.as_it_was()),
               "generator": progress.generator, "kept": kept[: progress.counts["kept"]]}  # fmt: skip
        torch.save({**own, "state": state}, data)
        try:
            if not (self.path / _CONFIG).exists():
                self._write_json(self._what)
            write_beside(self.path / _STATE, lambda path: path.write_bytes(data.getbuffer()))
            self._write_curve(progress.as_it_was())
            self._events.add(progress.as_it_was())
        except AttractorError as error:
            if not self._warned:
                log.warning("The training goes on, but cannot be resumed if it is stopped: %s", error)
            self._warned = True

    def load(self) -> Progress | None:
        """The saved progress, or None when there is none that can be read."""
        path = self.path / _STATE
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            history = History(**saved["history"])
            self._events.skip(history)
            found = Progress(saved["phase"], saved["step"], history, saved["generator"], {},
                             [tuple(one) for one in saved["kept"]], saved["state"])  # fmt: skip
            log.info("Going on after step %d of the %s, which was saved in %s", found.step, found.phase, self.path)
            return found
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            log.warning("%s cannot be read, the training starts anew: %s", path, why)
            return None

    def finish(self, card: dict, history: History) -> None:
        """The training is done: run card and curve stay, the state goes."""
        try:
            self._write_json({**self._what, **card})
            self._write_curve(history)
            self._events.add(history)
            (self.path / _STATE).unlink(missing_ok=True)
        except (AttractorError, OSError) as error:
            log.warning("The run's folder cannot be written: %s", error)

    def add_picture(self, name: str, picture: Image.Image) -> None:
        """Keep a preview or a chart, a PNG."""
        try:
            write_beside(self.path / name, lambda path: picture.save(path, "PNG"))
        except AttractorError as error:
            log.warning("A picture of the run is not kept: %s", error)

    def close(self) -> None:
        """Nothing more comes, whether it is finished or not."""
        self._events.close()

    def _write_json(self, data: dict) -> None:
        text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
        write_beside(self.path / _CONFIG, lambda path: path.write_text(text, encoding="utf-8"))

    def _write_curve(self, history: History) -> None:
        """One line a step, background steps below zero, with the fixed losses where they were measured."""
        fixed = {name: dict(getattr(history, name)) for name in ("background", "train", "held_out")}
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["step", "loss", *fixed])
        rows.writerows([step, value, *(points.get(step, "") for points in fixed.values())]
                       for step, value in history.losses)  # fmt: skip
        write_beside(self.path / _CURVE, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))
