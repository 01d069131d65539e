"""Telling the page how training goes: progress bar, live loss, a curve or a preview picture, and Cancel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
from PIL import Image

from ...training.concept import Concept
from ...training.history import History
from . import panels

_SECONDS_BETWEEN_TEXTS = 0.25


class HostWatcher:
    """Shows every step in the node that trains, and raises the host's own interruption when the user cancels."""

    def __init__(
        self, node_id: str | None, curve: Callable[[History], Image.Image],
        sample: Callable[[int, Concept], Image.Image] | None = None,
    ):  # fmt: skip
        self._node_id, self._curve, self._sample = node_id, curve, sample
        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._picture: Any = None
        self._last_text = 0.0
        self._history: History | None = None
        self._shows_samples = False

    def encoding(self, done: int, total: int) -> None:
        """Move the bar before the first step."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total)

    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """Move the bar and write the loss."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total, self._picture)
        self._picture = None
        if time.monotonic() - self._last_text > _SECONDS_BETWEEN_TEXTS or done == total:
            self._last_text = time.monotonic()
            if not panels.page_draws():  # else the host puts a line below the panel, which says the same
                send_text(f"{phase}: step {done} of {total}, loss {value:.4f}", self._node_id)
            self._tell_curve({"phase": phase, "step": done, "total": total, "loss": value})

    def measured(self, history: History) -> None:
        """Show the curve with the next step, unless previews are shown or the page draws it itself."""
        self._history = history
        self._show_curve(history)

    def __enter__(self) -> HostWatcher:
        return self

    def __exit__(self, *_: object) -> None:
        panels.forget_curve(self._node_id)

    def say(self, message: str) -> None:
        """Show a line before the first step."""
        if panels.page_draws():
            panels.tell_curve(self._node_id, {"said": message})
        else:
            send_text(message, self._node_id)

    def finish(self, history: History) -> None:
        """Show what came with the last step."""
        self._show_curve(history)
        if self._picture is not None:
            self._bar.update_absolute(self._bar.total, self._bar.total, self._picture)
            self._picture = None

    def preview(self, done: int, concept: Concept) -> None:
        """Show a picture of the concept as it is now."""
        if self._sample is not None:
            self._shows_samples = True
            self._picture = ("JPEG", self._sample(done, concept), 512)

    def _show_curve(self, history: History) -> None:
        if not self._shows_samples and not panels.page_draws():
            self._picture = ("JPEG", self._curve(history), 512)

    def _tell_curve(self, at: dict[str, Any]) -> None:
        panels.tell_curve(self._node_id, at | (panels.curve(self._history) if self._history is not None else {}))


def send_text(message: str, node_id: str | None) -> None:
    """A line in the node."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(message, node_id)


def watcher() -> Callable[[int, int], None]:
    """Moves the running node's bar, and raises the host's own interruption when the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def told(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return told
