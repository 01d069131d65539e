"""Eight subjects trained in one batch, beside the same eight one after the other."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ...training.loop import train
from ...training.settings import TrainSettings
from ...training.together import Job, train_together
from ..quality.cases import cases

_SETTINGS = TrainSettings(steps=100, background_steps=50, batch_size=4, resolution=64, vectors=3, zoom=1.2)


def together_over_serial(host: Any, count: int = 8, rounds: int = 2) -> dict[str, float]:
    """Seconds of both ways, encoding and measuring included, in turns; the smaller of each is taken."""
    subjects = [case.sets()[0] for case in cases("develop", count, ("same_shoot",))]
    jobs = [Job(subject, replace(_SETTINGS, seed=i)) for i, subject in enumerate(subjects)]
    taken: dict[str, list[float]] = {"serial": [], "together": []}
    for _ in range(rounds):
        began = time.perf_counter()
        alone = [train(host, job.subject, job.settings)[0] for job in jobs]
        taken["serial"].append(time.perf_counter() - began)
        began = time.perf_counter()
        found = [concept for concept, _ in train_together(host, jobs)]
        taken["together"].append(time.perf_counter() - began)
    apart = max(float((a.vectors[k] - b.vectors[k]).abs().max() / a.vectors[k].std())
                for a, b in zip(alone, found, strict=True) for k in a.vectors)  # fmt: skip
    serial, together = min(taken["serial"]), min(taken["together"])
    return {"over_serial": together / serial, "seconds": together, "serial_seconds": serial, "largest_change": apart}
