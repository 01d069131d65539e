"""`make bench-quality`: how much of the background each method learns, and what it costs the subject and the prompt.

Tunes every method on subjects of its own, then learns each test subject in both settings with every method and seed,
and writes docs/benchmarks/quality.json, its tables and its pictures. A run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import benchmarks
from . import methods as rows
from . import tables
from .cases import SETTINGS, Case, cases
from .figures import MEASURES, Bootstrap, Measured, measure
from .methods import FLOOR, TUNABLE, Method
from .pictures import frontier, sheet
from .runs import Job, run_all

TUNING_SUBJECTS, TUNING_PICTURES = 3, 2
BASELINES = ("ti_published", "ti_tuned", "cross_init", "directional", "soft_masks")
Table = dict[str, list[Measured]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tables that are asked for and print them; `--write` keeps them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="of training")
    parser.add_argument("--pictures", type=int, default=4, help="of each prompt")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--tables", nargs="+", default=["main", "masks", "ablation"],
                        choices=["main", "masks", "ablation"])  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=None, help="only these rows of the main table")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--short", action="store_true", help="two subjects, one seed, three methods, nothing is tuned")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks")
    chosen = parser.parse_args(argv)
    if chosen.short:
        chosen.subjects, chosen.seeds, chosen.pictures, chosen.settings = 2, 1, 2, ["same_shoot"]
        chosen.tables, chosen.methods = ["main"], ["floor", "ti_tuned", "ours"]
    best = {} if chosen.short else tune(chosen.workers)
    figures: dict[str, float] = judge_figures(200 if not chosen.short else 40)
    bench = _Bench(chosen, best)
    for name in chosen.tables:
        figures |= getattr(bench, name)()
    if chosen.write:
        bench.write(figures)
    return 0


def judge_figures(count: int) -> dict[str, float]:
    """The judge on unseen renders, and what it reads of the base checkpoint's pictures."""
    from ...nodes.host import demo
    from ..checkpoints import import_host
    from ..judge import load
    from ..pretrain.judge import accuracy, held_out
    from . import base

    import_host()
    judge = load()
    found = accuracy(judge, *held_out(0, 5 * count))
    named = ("kind", "pattern", "colour", "colour2", "background", "background_colour")
    figures = {f"judge.{name}": value for name, value in found.items()}
    figures["judge.accuracy"] = min(found[name] for name in named)
    with torch.inference_mode():
        painted = base.paint(demo.load(), judge, count, 0).figures()
    figures |= {f"base.{name}": value for name, value in painted.items()}
    for name, value in figures.items():
        print(f"{name:28s} {value:.3f}")
    return figures


def tune(workers: int) -> dict[str, Method]:
    """Every tunable method at its best point: mean of subject and prompt fidelity less leak, on the hard setting."""
    group = cases("tuning", TUNING_SUBJECTS, ("same_shoot",))
    grids = {method.name: rows.grid(method) for method in TUNABLE}
    flat = [FLOOR, *(m for grid in grids.values() for m in grid)]
    jobs = [Job(case, method, 0, TUNING_PICTURES) for method in flat for case in group]
    results = run_all(jobs, workers)
    table = {id(m): results[i * len(group) : (i + 1) * len(group)] for i, m in enumerate(flat)}
    best = {}
    print(f"\ntuning on {len(group)} subjects that are not in the test")
    for name, grid in grids.items():
        worth = []
        for method in grid:
            found = [measure(c, r, f, TUNING_PICTURES).values
                     for c, r, f in zip(group, table[id(method)], table[id(FLOOR)], strict=True)]  # fmt: skip
            mean = {k: float(np.mean([v[k] for v in found])) for k in ("subject", "prompt", "leak")}
            worth.append((mean["subject"] + mean["prompt"]) / 2 - max(0.0, mean["leak"]))
            how = method.baseline or method.settings
            rate = how.learning_rate if method.baseline else how["learning_rate"]  # type: ignore[union-attr, index]
            steps = how.steps if method.baseline else how["steps"]  # type: ignore[union-attr, index]
            print(f"  {name:14s} rate {rate:<7g} steps {steps:<4d} subject {mean['subject']:.3f} prompt "
                  f"{mean['prompt']:.3f} leak {mean['leak']:.3f} -> {worth[-1]:.3f}")  # fmt: skip
        best[name] = grid[int(np.argmax(worth))]
    return best


class _Bench:
    """The tables over the test subjects."""

    def __init__(self, chosen: argparse.Namespace, best: dict[str, Method]):
        self.chosen, self.best = chosen, best
        self.bootstrap = Bootstrap(range(chosen.subjects), range(chosen.seeds))

    def main(self) -> dict[str, float]:
        """Every method in every setting."""
        figures: dict[str, float] = {}
        wanted = self.chosen.methods
        methods = [m for m in rows.main_table(self.best) if not wanted or m.name in wanted]
        for setting in self.chosen.settings:
            group = cases("test", self.chosen.subjects, (setting,))
            table = self._measure(group, methods)
            figures |= self._figures(setting, table)
            self._print(setting, table, methods)
            if setting == "same_shoot":
                figures |= self._comparison(table)
            if self.chosen.write:
                sheet(benchmarks.FOLDER / f"quality_{setting}.jpg", self._jobs(group, methods), methods)
        if self.chosen.write:
            frontier(benchmarks.FOLDER / "quality_frontier.png", figures, self.chosen.settings, methods)
        return figures

    def masks(self) -> dict[str, float]:
        """Ours and the mask-weighted loss alone on masks of every quality, same shoot."""
        methods = rows.mask_table(self.best)
        table = self._measure(cases("test", self.chosen.subjects, ("same_shoot",)), [FLOOR, *methods])
        self._print("same shoot, masks", table, methods)
        figures = {f"masks.{k}": v for k, v in self._figures("same_shoot", table).items()}
        for quality in ("true", "own", "eroded", "dilated", "box"):
            pair = [self.bootstrap.table(table[f"{m}.{quality}"], "leak") for m in ("ours", "mask_only")]
            figures |= self._named(f"masks.{quality}.leak_ratio", *pair, of=lambda a, b: a / b)
            figures |= self._named(f"masks.{quality}.leak_difference", *pair, of=lambda a, b: a - b)
        return figures

    def ablation(self) -> dict[str, float]:
        """Ours with one thing changed; where photos vary, only what concerns the background's tokens."""
        figures: dict[str, float] = {}
        for setting in self.chosen.settings:
            changed = rows.ablation_table(self.best)
            if setting == "varied":
                changed = [m for m in changed if "background" in m.name or "together" in m.name]
            methods = [self.best.get("ours", TUNABLE[-1]), *changed]
            table = self._measure(cases("test", self.chosen.subjects, (setting,)), [FLOOR, *methods])
            self._print(f"{setting}, one thing changed at a time", table, methods)
            for method in changed:
                for measured in ("leak", "subject", "prompt"):
                    pair = [self.bootstrap.table(table[name], measured) for name in (method.name, "ours")]
                    label = f"ablation.{setting}.{method.name}.{measured}_change"
                    figures |= self._named(label, *pair, of=lambda a, b: a - b)
        return figures

    def write(self, figures: dict[str, float]) -> None:
        """The record, and its section of the page."""
        chosen = self.chosen
        seeds = {"subjects": chosen.subjects, "training": chosen.seeds, "pictures": chosen.pictures}
        tuned: dict[str, Any] = {n: vars(m.baseline) if m.baseline else m.settings for n, m in self.best.items()}
        record = benchmarks.write_record("quality", figures, seeds=seeds, tuned=tuned)
        methods = rows.main_table(self.best)
        text = [
            f"`make bench-quality` on {record['date']}, {record['machine']}, commit {record['commit']}: "
            f"{chosen.subjects} subjects x {chosen.seeds} training seeds, 20 prompts x {chosen.pictures} pictures, "
            f"{tables.ABOUT}"
        ]
        if "main" in chosen.tables:
            for setting in chosen.settings:
                text += [f"### {tables.TITLES[setting]}", tables.main_table(figures, setting, methods)]
                text += [f"![Pictures of two subjects](benchmarks/quality_{setting}.jpg)"]
                if setting == "same_shoot":
                    text.append(tables.comparison(figures))
            text.append("![Subject fidelity against leak](benchmarks/quality_frontier.png)")
        if "masks" in chosen.tables:
            text += ["### What background tokens add to a mask", tables.mask_table(figures)]
        if "ablation" in chosen.tables:
            for setting in chosen.settings:
                text += [f"### One thing changed at a time: {tables.TITLES[setting].lower()}", tables.ABOUT_CHANGES,
                         tables.ablation_table(figures, setting)]  # fmt: skip
        benchmarks.write_section("quality", "Quality: leak, subject and prompt in a world where the truth is known",
                                 "\n\n".join(text))  # fmt: skip

    def _jobs(self, group: list[Case], methods: Sequence[Method]) -> dict[str, list[Job]]:
        seeds, pictures = range(self.chosen.seeds), self.chosen.pictures
        return {m.name: [Job(case, m, seed, pictures) for case in group for seed in seeds] for m in methods}

    def _measure(self, group: list[Case], methods: Sequence[Method]) -> Table:
        jobs = self._jobs(group, methods)
        flat = [job for of in jobs.values() for job in of]
        found = run_all(flat, self.chosen.workers)
        results = {id(job): result for job, result in zip(flat, found, strict=True)}
        floor = {job.case.name: results[id(job)] for job in jobs["floor"]}

        def measured(job: Job) -> Measured:
            result = {**results[id(job)], "seed": job.seed}
            return measure(job.case, result, floor[job.case.name], self.chosen.pictures)

        return {name: [measured(job) for job in of] for name, of in jobs.items()}

    def _figures(self, setting: str, table: Table) -> dict[str, float]:
        figures = {}
        for name, runs in table.items():
            for measured in runs[0].values:
                label = f"{setting}.{name}.{measured}"
                if measured in MEASURES:
                    figures |= self._named(label, self.bootstrap.table(runs, measured))
                else:
                    figures[label] = float(self.bootstrap.table(runs, measured).mean())
        return figures

    def _comparison(self, table: Table) -> dict[str, float]:
        """Ours against plain TI, against the mask alone, and against the best baseline, same shoot."""
        figures: dict[str, float] = {}
        if "ours" not in table:
            return figures
        take = self.bootstrap.table
        for rival in (n for n in BASELINES if n in table):
            pair = [take(table[name], "leak") for name in ("ours", rival)]
            figures |= self._named(f"same_shoot.leak_difference.{rival}", *pair, of=lambda a, b: a - b)
            pair = [take(table[name], "subject") for name in ("ours", rival)]
            figures |= self._named(f"same_shoot.subject_difference.{rival}", *pair, of=lambda a, b: a - b)
        if "ti_published" in table:
            pair = [take(table[name], "leak") for name in ("ours", "ti_published")]
            figures |= self._named("same_shoot.leak_ratio", *pair, of=lambda a, b: a / b)
        rivals = {n: take(table[n], "subject").mean() for n in BASELINES if n in table}
        if rivals:
            best = max(rivals, key=lambda n: rivals[n])
            figures |= self._named("same_shoot.subject_diff_best", take(table["ours"], "subject"),
                                   take(table[best], "subject"), of=lambda a, b: a - b)  # fmt: skip
        for name in ("same_shoot.leak_ratio", "same_shoot.subject_diff_best"):
            if name in figures:
                print(f"{name} {figures[name]:.3f} [{figures[name + '_low']:.3f}, {figures[name + '_high']:.3f}]")
        return figures

    def _named(self, label: str, *tables: np.ndarray, of=lambda x: x) -> dict[str, float]:
        value, low, high = self.bootstrap.interval(*tables, of=of)
        return {label: value, f"{label}_low": low, f"{label}_high": high}

    def _print(self, title: str, table: Table, methods: Sequence[Method]) -> None:
        columns = ("leak", "leak.full", "leak.partial", "leak.bare", "leak_share", "subject", "prompt", "gap",
                   "held_out", "diversity", "seconds")  # fmt: skip
        print(f"\n{title}: {self.chosen.subjects} subjects x {self.chosen.seeds} seeds")
        print(f"{'':36s}" + "".join(f"{c:>13s}" for c in columns))
        for method in methods:
            runs = table[method.name]
            means = [self.bootstrap.table(runs, column).mean() for column in columns]
            print(f"{method.about[:35]:36s}" + "".join(f"{mean:13.3f}" for mean in means))


if __name__ == "__main__":
    sys.exit(main())
