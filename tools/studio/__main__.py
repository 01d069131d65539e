"""`make bench-studio`: a sweep over Ray beside the same work in bare loops, and what ten thousand subjects would take.

Writes docs/benchmarks/studio.json and its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ...studio.plan import read_plan
from ...studio.store import Store
from .. import benchmarks
from .catalogue import write_catalogue
from .scaling import Times, driver_seconds, on_paper, simulate

_PLAN = """subjects: catalogue
methods: [attractor, plain, masked]
settings: {{steps: {steps}, background_steps: {half}, batch_size: 4, resolution: 64, vectors: 3, views: 4}}
seeds: [0, 1]
painting: {{seeds: 1, steps: 12, cfg: 3, size: 64}}
masking: {{backend: saliency}}
image_encoder: demo-clip
text_encoder: demo-clip
together: 6
"""
_RUNS, _TOGETHER, _GPUS, _SUBJECTS = 6, 6, 64, 10_000
_COPIES = 150  # subjects over which the driver's own time is measured


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; `--write` keeps it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/studio"), help="where the work is done")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks")
    chosen = parser.parse_args(argv)
    folder = chosen.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    write_catalogue(folder / "catalogue", chosen.subjects)
    plan = folder / "plan.yaml"
    plan.write_text(_PLAN.format(steps=chosen.steps, half=chosen.steps // 2), encoding="utf-8")
    workers = os.cpu_count() or 1
    bare = _bare(plan, folder / "bare", workers)
    swept = _timed([sys.executable, "-P", "-m", "attractor_pack.cli.main", "sweep", str(plan), "--json",
                    str(folder / "sweep.json")])  # fmt: skip
    again = _timed([sys.executable, "-P", "-m", "attractor_pack.cli.main", "sweep", str(plan), "--json",
                    str(folder / "again.json")])  # fmt: skip
    figures = {"runs": float(chosen.subjects * _RUNS), "workers": float(workers), "bare_seconds": bare,
               "sweep_seconds": swept, "sweep_over_bare": swept / bare, "again_seconds": again}  # fmt: skip
    figures |= _scaling(Store(str(plan.with_suffix(".store"))), plan)
    for name, value in figures.items():
        print(f"{name:36s} {value:.4f}", flush=True)
    if chosen.write:
        record = benchmarks.write_record("studio", figures, settings=_PLAN.format(steps=chosen.steps,
                                                                                  half=chosen.steps // 2))  # fmt: skip
        benchmarks.write_section("studio", "Studio: sweeps over Ray, and how far one driver reaches",
                                 _section(record, figures))  # fmt: skip
    return 0


def _bare(plan: Path, out: Path, workers: int) -> float:
    """As many loops at once as the sweep has workers, with as many threads each."""
    began = time.perf_counter()
    loops = [subprocess.Popen([sys.executable, "-P", "-m", "attractor_pack.tools.studio.bare", str(plan), str(out),
                               str(part), str(workers)], env={**os.environ, "OMP_NUM_THREADS": "1"})
             for part in range(workers)]  # fmt: skip
    if any(loop.wait() for loop in loops):
        raise SystemExit("a bare loop failed")
    return time.perf_counter() - began


def _timed(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def _scaling(store: Store, plan: Path) -> dict[str, float]:
    """Chunks are whole subjects here: their time is that of their runs' parts."""
    chunks: dict[str, float] = defaultdict(float)
    for key in store.keys("runs"):
        record = store.record("runs", key)
        if record:
            chunks[record["subject"]] += record["seconds"]
    prepare = [r["seconds"] for k in store.keys("subjects") if (r := store.record("subjects", k))]
    subject, run, shown = driver_seconds(store, read_plan(plan), _COPIES)
    times = Times(tuple(prepare), tuple(chunks.values()), subject, run)
    paper = on_paper(times, _SUBJECTS, _RUNS, _TOGETHER, _GPUS)
    found = {"driver.seconds_per_subject": subject, "driver.seconds_per_run": run,
             "driver.summary_seconds_per_run": shown,
             "task.prepare_seconds": sum(prepare) / len(prepare),
             "task.train_seconds": sum(chunks.values()) / len(chunks)}  # fmt: skip
    found |= {f"paper.{name}": value for name, value in paper.items()}
    found |= {f"simulated.{n}": v for n, v in simulate(times, _SUBJECTS, _RUNS, _TOGETHER, _GPUS).items()}
    wide = int(paper["bottleneck"] * 2)
    found["simulated.gpus_twice_the_bottleneck"] = float(wide)
    found |= {f"simulated.twice.{n}": v for n, v in simulate(times, _SUBJECTS, _RUNS, _TOGETHER, wide).items()}
    return found


def _section(record: dict, figures: dict[str, float]) -> str:
    f = figures
    return f"""`make bench-studio` on {record["date"]}, {record["machine"]}.

A sweep of {f["runs"]:.0f} runs of the demo checkpoint over Ray took {f["sweep_seconds"]:.0f} s, the same work in
{f["workers"]:.0f} bare loops {f["bare_seconds"]:.0f} s: **{f["sweep_over_bare"]:.2f} times** (1.15 is asked), Ray's
start included. The same sweep again, with all in the store, took {f["again_seconds"]:.0f} s.

How far one driver reaches: it takes {f["driver.seconds_per_subject"] * 1000:.0f} ms for a subject and
{f["driver.seconds_per_run"] * 1000:.0f} ms for a run (reading and hashing photos, writing results to a local disk),
measured on the driver itself with results that come back at once. A worker here (one CPU core, the demo checkpoint)
takes {f["task.prepare_seconds"]:.1f} s to prepare a subject and {f["task.train_seconds"]:.0f} s for its six runs in
one batch.

| 10,000 subjects, 6 runs each, 64 workers of that speed | on paper | simulated |
|---|---|---|
| hours | {f["paper.hours"]:.1f} | {f["simulated.hours"]:.1f} |
| workers busy | 100% | {f["simulated.gpus_busy"]:.1%} |
| driver busy | {f["paper.driver_hours"] / f["paper.hours"]:.1%} | {f["simulated.driver_busy"]:.1%} |

The first bottleneck is the driver, from {f["paper.bottleneck"]:.0f} workers of that speed on: with twice as many the
simulation keeps {f["simulated.twice.gpus_busy"]:.0%} of them busy. Workers that are ten times as fast meet it at a
tenth of that number. The summary at the end takes {f["driver.summary_seconds_per_run"] * 1000:.0f} ms a run, once.
Not in it: what Ray itself takes for a task and for moving photos over a network."""


if __name__ == "__main__":
    sys.exit(main())
