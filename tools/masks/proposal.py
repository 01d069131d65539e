"""Is the proposed strength as good as the best of a full sweep? Counted on subjects whose truth is known."""

from __future__ import annotations

import time

import numpy as np
import torch

from ...attractor.propose import STRENGTHS, propose
from ...training.settings import TrainSettings
from ..quality.cases import cases
from ..quality.figures import FLOOR_PICTURES, measure
from ..quality.masks import with_masks
from ..quality.methods import FLOOR, Method, recorded
from ..quality.runs import Job, run_all
from .subjects import demo_model

_WITHIN = 0.05
_PICTURES = 2  # of each of the 20 prompts and each seed


def proposal(subjects: int, seeds: int, workers: int) -> dict[str, float]:
    """Propose for each test subject, same shoot, and train it at every strength that was tried; prints both.

    With the settings of ours in the quality benchmark. seeds: of the sweep's trainings, whose mean counts.
    Within 5%: leak (a share of the way) and subject fidelity (a share of the factors) of the proposed strength are both
    at most .05 worse than those of the strength with the best subject fidelity less leak.
    """
    group = cases("test", subjects, ("same_shoot",))
    tuned = recorded()["ours"].settings
    methods = {s: Method(f"strength {s:g}", "", "ours", masks="own", settings={**tuned, "strength": s})
               for s in STRENGTHS}  # fmt: skip
    jobs = [Job(case, FLOOR, 0, FLOOR_PICTURES) for case in group]
    jobs += [Job(case, method, seed, _PICTURES) for method in methods.values() for case in group
             for seed in range(seeds)]  # fmt: skip
    results = iter(run_all(jobs, workers))
    floors = [next(results) for _ in group]
    found = {s: [_mean([_of(case, next(results), floors[k]) for _ in range(seeds)]) for k, case in enumerate(group)]
             for s in methods}  # fmt: skip
    within, full, seconds = [], [], []
    model = demo_model()
    for k, case in enumerate(group):
        with torch.inference_mode():
            masked = with_masks(case.sets()[0], "own", model)
            began = time.perf_counter()
            chosen = propose(model, masked, TrainSettings(**tuned))
            seconds.append(time.perf_counter() - began)
        worth = {s: subject - max(0.0, leak) for s, (leak, subject) in ((s, of[k]) for s, of in found.items())}
        best = max(worth, key=lambda s: worth[s])
        leak, subject = found[chosen.strength][k]
        best_leak, best_subject = found[best][k]

        def is_within(strength: float, k: int = k, best: float = best) -> bool:
            (leak, subject), (least, most) = found[strength][k], found[best][k]
            return max(0, leak) <= max(0, least) + _WITHIN and subject >= most - _WITHIN

        within.append(is_within(chosen.strength))
        full.append(is_within(1.0))
        print(f"{case.name:22s} proposed {chosen.strength:g} (leak {leak:+.2f}, subject {subject:.2f}), best {best:g} "
              f"({best_leak:+.2f}, {best_subject:.2f}){'' if within[-1] else '  <- outside'}", flush=True)  # fmt: skip
    for s, of in found.items():
        leaks, subjects_ = np.mean([leak for leak, _ in of]), np.mean([subject for _, subject in of])
        print(f"strength {s:<5g} mean leak {leaks:+.3f}, subject {subjects_:.3f}")
    return {"proposal.within_5pct": sum(within), "proposal.always_1_within_5pct": sum(full),
            "proposal.subjects": len(within), "proposal.seeds": seeds,
            "proposal.seconds": float(np.median(seconds))}  # fmt: skip


def _mean(found: list[tuple[float, float]]) -> tuple[float, float]:
    leak, subject = np.mean(found, 0)
    return float(leak), float(subject)


def _of(case, result: dict, floor: dict) -> tuple[float, float]:
    """Leak and subject fidelity of one run."""
    found = measure(case, result, floor)
    return found.value("leak"), found.value("subject")
