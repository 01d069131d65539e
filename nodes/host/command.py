"""The pack's command line in a process of its own, under the host's Python, ended by the host's Cancel."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import comfy.model_management
import comfy.utils

from ...attractor.errors import AttractorError
from ...studio.hosts import OWN_SERVER
from .progress import send_text
from .routes import SERVER

_SCRIPT = Path(__file__).resolve().parents[2] / "cli" / "standalone.py"
_COUNT = re.compile(r"^(\d+) of (\d+) runs")
_PATIENCE = 30.0  # seconds that a cancelled command has to leave what it holds in order
_KEPT = 40  # last lines, of which the error is one


def run_command(arguments: Sequence[str], node_id: str | None) -> None:
    """Run `attractor ARGUMENTS`, with its lines and its count of runs in the node.

    The host's models leave the GPU before. Raises AttractorError with what the command said when it fails, and the
    host's own interruption when the user cancels, after the command was stopped.
    """
    if comfy.model_management.get_torch_device().type != "cpu":
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
    process = subprocess.Popen(  # noqa: S603 - our own script, no shell
        [sys.executable, str(_SCRIPT), *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        encoding="utf-8", errors="replace", env={**os.environ, "PYTHONIOENCODING": "utf-8", OWN_SERVER: SERVER},
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )  # fmt: skip
    try:
        said = _follow(process, node_id)
    except BaseException:
        _end(process)
        raise
    if process.returncode < 0:
        raise AttractorError(f"the sweep's own process was killed (signal {-process.returncode}), perhaps because "
                             "memory ran out. Queue again: what is done is not done twice.")  # fmt: skip
    if process.returncode:
        last = said[-1] if said else f"it ended with {process.returncode}"
        raise AttractorError(last.removeprefix(f"attractor {arguments[0]}: "))


def _follow(process: subprocess.Popen, node_id: str | None) -> list[str]:
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stderr, lines), daemon=True).start()
    bar, said = comfy.utils.ProgressBar(1, node_id=node_id), []
    while True:
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            process.wait()
            return said
        if line:
            said = [*said[-_KEPT:], line]
            count = _COUNT.match(line)
            if count:
                bar.update_absolute(int(count[1]), int(count[2]))
            if not line.startswith("|"):
                send_text(line, node_id)


def _read(stream: IO[str] | None, lines: queue.Queue[str | None]) -> None:
    for line in stream or ():
        lines.put(line.strip())
    lines.put(None)


def _end(process: subprocess.Popen) -> None:
    """As Ctrl-C would, and by force when that is not heard."""
    if process.poll() is None:
        try:
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
            process.wait(_PATIENCE)
        except (subprocess.TimeoutExpired, OSError):  # it does not listen, or there is no console to send it by
            process.kill()
            process.wait()
