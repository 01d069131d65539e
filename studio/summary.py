"""What a sweep found over its subjects: a table of methods, and what failed and why."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..metrics.compare import compare_reports
from ..metrics.report import number
from ..metrics.statistics import Difference, family, paired
from .plan import Plan, digest
from .store import Store
from .sweep import Run, Sweep


def over_subjects(reports: Mapping[str, Mapping[str, Sequence[dict]]]) -> list[dict]:
    """For each measure: each method's mean over subjects, and the differences to the first method with subjects as
    units, or with prompts where there is one subject.

    reports: method to subject to a report for each seed, which are averaged before anything is compared.
    """
    methods, subjects = list(reports), list(next(iter(reports.values())))
    twice = methods if len(methods) > 1 else methods * 2
    compared = {
        s: [compare_reports(each, [str(i) for i in range(len(each))])
            for each in zip(*(reports[m][s] for m in twice), strict=True)]
        for s in subjects
    }  # fmt: skip
    every = [c for found in compared.values() for c in found]
    shared = [row.name for row in every[0].rows if all(row.name in {r.name for r in c.rows} for c in every)]
    rows = []
    for name in shared:
        of = {s: [next(r for r in c.rows if r.name == name) for c in found] for s, found in compared.items()}
        mean = {s: np.mean([r.means for r in found], axis=0) for s, found in of.items()}
        first = of[subjects[0]]
        differences = []
        for i in range(1, len(methods)):
            if len(subjects) > 1:
                found = paired([mean[s][i] for s in subjects], [mean[s][0] for s in subjects], subjects)
            else:
                values = np.mean([r.values for r in first], axis=0)
                found = paired(values[i], values[0], [prompt for prompt, _ in every[0].keys])
            differences.append(found)
        means = [float(np.mean([mean[s][i] for s in subjects])) for i in range(len(methods))]
        rows.append({"name": name, "more_is_better": first[0].more_is_better, "means": means,
                     "differences": differences})  # fmt: skip
    adjusted = iter(family([d for row in rows for d in row["differences"]]))
    return [row | {"differences": [asdict(next(adjusted)) for _ in row["differences"]]} for row in rows]


def summary(sweep: Sweep) -> dict[str, Any]:
    """All of a sweep as plain data: its runs with where their files lie, what failed, and the table over the subjects
    of which every run is there.
    """
    by_subject: dict[str, list[Run]] = {}
    for run in sweep.runs:
        by_subject.setdefault(run.subject, []).append(run)
    whole = [name for name, runs in by_subject.items() if all(run.record for run in runs)]
    names, rows = list(sweep.by_name), []
    if whole:
        reports: dict[str, dict[str, list[dict]]] = {name: {} for name in names}
        for subject in whole:
            for run in by_subject[subject]:
                reports[run.name].setdefault(subject, []).append(report_of(sweep, run))
        rows = over_subjects(reports)
    return {
        "format": 1, "made": datetime.now(timezone.utc).isoformat(),
        "methods": names, "subjects": whole, "rows": rows, "counts": dict(sweep.counts),
        "seeds": list(sweep.plan.seeds), "plan": sweep.plan.as_dict(), "stamps": sweep.stamps,
        "failed": [{"subject": r.subject, "method": r.name, "seed": r.seed, "why": r.reason}
                   for r in sweep.runs if r.state == "failed"],
        "runs": [_row(sweep, run) for run in sweep.runs],
    }  # fmt: skip


def report_of(sweep: Sweep, run: Run) -> dict:
    """A run's report.json. Raises AttractorError when the store has lost it."""
    return json.loads(sweep.store.file(run.record or {"files": {}}, "report.json"))


def table(result: Mapping[str, Any]) -> str:
    """The table in Markdown, with what failed below it."""
    methods, subjects = result["methods"], result["subjects"]
    head = ["measure", *methods, *(f"{m} less {methods[0]}" for m in methods[1:])]
    lines = [f"{len(subjects)} subjects: {', '.join(subjects[:20])}{' and more' if subjects[20:] else ''}", "",
             f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]  # fmt: skip
    for row in result["rows"]:
        name = f"{row['name']} ({'more' if row['more_is_better'] else 'less'} is better)"
        cells = [number(mean) for mean in row["means"]] + [str(Difference(**d)) for d in row["differences"]]
        lines.append(f"| {' | '.join([name, *cells])} |")
    units = "subjects" if len(subjects) > 1 else "prompts"
    lines += ["", f"Differences with 95% intervals over {units}; p is corrected for all tests of the table."]
    failed = result.get("failed") or []
    lines += [f"- failed: {f['subject']}, {f['method']}, seed {f['seed']}: {f['why']}" for f in failed[:50]]
    return "\n".join(lines)


def keep_summary(store: Store, result: Mapping[str, Any]) -> str:
    """Write the summary and its table into the store, under the plan's hash; gives where."""
    name = summary_name(Plan.of(result["plan"]))
    store.write(f"{name}.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    store.write(f"{name}.md", table(result).encode())
    return store.path(f"{name}.json")


def summary_name(plan: Plan) -> str:
    """Where the summary of a plan lies in its store, without its suffix."""
    return f"sweeps/{digest(plan.as_dict())[:16]}"


def save_concepts(sweep: Sweep, folder: Path) -> list[Path]:
    """Write each concept under the names of subject, method, settings and seed, where stock nodes find it.

    Raises AttractorError before anything is written when two would have the same name.
    """
    written: list[Path] = []
    names = [_file_name(run) for run in sweep.runs]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice:
        raise AttractorError(f"--concepts: two concepts would be called {twice}: rename one of the subjects' folders.")
    for run in sweep.runs:
        if run.record is not None:
            path, data = folder / f"{_file_name(run)}.safetensors", sweep.store.file(run.record, "concept.safetensors")
            write_beside(path, lambda file, data=data: file.write_bytes(data))
            written.append(path)
    return written


def _file_name(run: Run) -> str:
    return re.sub(r"[^\w.=-]+", "-", f"{run.subject} {run.name} {run.seed}")


def _row(sweep: Sweep, run: Run) -> dict[str, Any]:
    found = {"name": run.name, "subject": run.subject, "method": run.method, "variant": run.variant, "seed": run.seed,
             "key": run.key, "state": run.state}  # fmt: skip
    if run.record is None:
        return found
    shown = [name for name in ("concept.safetensors", "report.json", "report.html") if name in run.record["files"]]
    files = {name: sweep.store.file_path(run.record, name) for name in shown}
    return found | {"seconds": run.record["seconds"], "worker": run.record["worker"], "files": files}
