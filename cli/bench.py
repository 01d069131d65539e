"""`attractor bench DIR`: methods over a set of many subjects, here and now, each scored on photos held out from it.

A sweep in this process, with its plan from the command's options.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import torch

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside, write_json
from ..studio.plan import METHODS, Masking, Painting, Plan
from ..studio.store import Store
from ..studio.summary import summary, table
from ..studio.sweep import InProcess, Sweep
from ..training.settings import TrainSettings
from .live import Lines


def bench(chosen: Namespace) -> dict:
    """Train, paint and score each subject with each method; what is there of an earlier run is not done again."""
    methods = [name.strip() for name in chosen.methods.split(",") if name.strip()]
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or not methods:
        raise AttractorError(f"--methods: {', '.join(unknown) or '(none)'} is not one of {', '.join(METHODS)}.")
    plan = Plan(
        subjects=chosen.dir, model=chosen.model, methods={name: METHODS[name] for name in methods},
        settings={f.name: getattr(chosen, f.name) for f in fields(TrainSettings) if f.name != "seed"},
        seeds=(chosen.seed,), held_out=chosen.held_out, split_seed=chosen.seed,
        masking=Masking(**{f.name: getattr(chosen, f.name) for f in fields(Masking)}),
        painting=Painting(chosen.seeds, chosen.first_seed, chosen.sampler_steps, chosen.cfg, chosen.size),
        image_encoder=chosen.image_encoder, text_encoder=chosen.text_encoder or "", models=chosen.models or "",
        together=1, cpus=torch.get_num_threads(),
    )  # fmt: skip
    with Lines() as watcher:
        sweep = Sweep(plan, Store(chosen.out), InProcess(), watcher)
        sweep.run()
    result = summary(sweep)
    text = table(result)
    write_beside(Path(chosen.out) / "bench.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_json(Path(chosen.out) / "bench.json", result)
    print(text, file=sys.stderr)
    if not result["rows"]:
        raise AttractorError(f"no subject came through: {result['failed'][0]['why']}")
    return result
