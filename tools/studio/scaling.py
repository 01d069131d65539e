"""What a sweep of ten thousand subjects on 64 GPUs would take: on paper, and by a simulation with recorded times.

The driver is the one thing that all tasks go through. What it costs is measured on the driver itself, over an executor
that hands back recorded results at once; what the tasks cost is what workers recorded.
"""

from __future__ import annotations

import heapq
import random
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...studio.plan import Plan
from ...studio.store import Store
from ...studio.summary import summary
from ...studio.sweep import InProcess, Sweep
from ...studio.work import PREPARED


@dataclass(frozen=True)
class Times:
    """Seconds: of the tasks as workers recorded them, and of the driver for each subject and for each run."""

    prepare: tuple[float, ...]
    train: tuple[float, ...]
    driver_subject: float
    driver_run: float


class Replay(InProcess):
    """Hands back the same recorded results at once, so that only the driver's own work is left."""

    slots = 64

    def __init__(self, prepared: dict, run: dict):
        super().__init__()
        self._prepared, self._run = prepared, run

    def next(self) -> tuple[int, Any]:
        """The result of the first, which is known already."""
        handle, name, arguments = self._waiting.popleft()
        if name == "prepare":
            return handle, self._prepared
        return handle, [self._of(handle * 256 + i, row["key"]) for i, row in enumerate(arguments[-1])]

    def _of(self, number: int, key: str) -> dict:
        """The recorded run in files of its own, which the store does not have yet: with white space at their end."""
        own = format(number, "b").translate({48: " ", 49: "\t"}).encode()
        return {**self._run, "key": key, "files": {name: data + own for name, data in self._run["files"].items()}}


def driver_seconds(store: Store, plan: Plan, copies: int) -> tuple[float, float, float]:
    """What the driver takes for each subject, for each run, and the summary for each run, in seconds.

    store, plan: of a sweep that was run; copies: of its first subject, as many as are swept here.
    """
    record = next(r for k in store.keys("runs") if (r := store.record("runs", k)))
    subject = next(r for k in store.keys("subjects") if (r := store.record("subjects", k)))
    files = {name: store.file(record, name) for name in record["files"]}
    run = {"files": files, "seconds": record["seconds"], "parts": record["parts"], "worker": "replay"}
    prepared = {"files": {PREPARED: store.file(subject, PREPARED)}, "info": subject["info"], "seconds": 1.0,
                "worker": "replay"}  # fmt: skip
    taken = {}
    shown = 0.0
    for seeds in ((0,), (0, 1, 2, 3, 4)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            first = next(p for p in sorted(Path(plan.subjects).iterdir()) if p.is_dir())
            for i in range(copies):
                shutil.copytree(first, folder / "set" / f"s{i:05d}")
                (folder / "set" / f"s{i:05d}" / "class.txt").write_text(f"cup {i}", encoding="utf-8")
            own = replace(plan, subjects=str(folder / "set"), seeds=seeds, methods={"attractor": {}})
            sweep = Sweep(own, Store(str(folder / "store")), Replay(prepared, run))
            began = time.perf_counter()
            sweep.run()
            if sweep.counts["failed"]:
                raise SystemExit(f"nothing was measured: {next(r.reason for r in sweep.runs if r.state == 'failed')}")
            taken[len(seeds)] = (time.perf_counter() - began) / copies
            began = time.perf_counter()
            summary(sweep)
            shown = (time.perf_counter() - began) / copies / len(seeds)
    each = (taken[5] - taken[1]) / 4
    return max(0.0, taken[1] - each), each, shown


def simulate(times: Times, subjects: int, runs: int, together: int, gpus: int, seed: int = 0) -> dict[str, float]:
    """Hours, and how busy GPUs and driver are, of `subjects` x `runs` runs; task times are drawn from those recorded.

    Events as in Sweep: a subject is prepared, then its runs go in chunks; at most two tasks a GPU are handed out ahead.
    The driver does one thing at a time.
    """
    draw = random.Random(seed)  # noqa: S311 - a simulation
    chunks = -(-runs // together)
    waiting: deque[str] = deque()
    free = gpus
    ends: list[tuple[float, int, str]] = []
    clock = driver = busy = driving = 0.0
    opened = done = number = 0
    while done < subjects * chunks:
        while opened < subjects and len(waiting) + len(ends) < 2 * gpus:
            driver = max(driver, clock) + times.driver_subject
            driving += times.driver_subject
            opened += 1
            waiting.append("prepare")
        while free and waiting:
            kind = waiting.popleft()
            seconds = draw.choice(times.prepare if kind == "prepare" else times.train)
            free -= 1
            busy += seconds
            number += 1
            heapq.heappush(ends, (max(driver, clock) + seconds, number, kind))
        clock, _, kind = heapq.heappop(ends)
        free += 1
        if kind == "prepare":
            driver = max(driver, clock) + times.driver_run
            driving += times.driver_run
            waiting.extend(["train"] * chunks)
            continue
        cost = times.driver_run * min(together, runs)
        driver = max(driver, clock) + cost
        driving += cost
        done += 1
    total = max(clock, driver)
    return {"hours": total / 3600, "gpus_busy": busy / (gpus * total), "driver_busy": driving / total}


def on_paper(times: Times, subjects: int, runs: int, together: int, gpus: int) -> dict[str, float]:
    """Hours by division: all work over all GPUs, all of the driver's work, and the larger of both.

    bottleneck: number of GPUs from which on the driver is what all wait for.
    """
    chunks = -(-runs // together)
    task = _mean(times.prepare) + chunks * _mean(times.train)
    own = times.driver_subject + times.driver_run * (runs + 1)
    return {"work_hours": subjects * task / gpus / 3600, "driver_hours": subjects * own / 3600,
            "hours": max(subjects * task / gpus, subjects * own) / 3600, "bottleneck": task / own}  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
