"""`attractor bench DIR`: methods over a set of many subjects, each scored on photos that it never saw."""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ..attractor.errors import AttractorError
from ..metrics.compare import compare_reports
from ..metrics.encoders import load_encoder
from ..metrics.page import write_report
from ..metrics.report import FORMAT, number, read_report
from ..metrics.scores import score
from ..metrics.statistics import Difference, family, paired
from ..training.concept import save_concept, write_beside
from ..training.loop import train
from ..training.resume import RunFolder
from ..training.run_card import VERSION
from ..training.settings import TrainSettings
from . import commands
from .sets import Case, read_set

METHODS = {
    "attractor": {},
    "plain": {"strength": 0.0, "background_scope": "none", "background_steps": 0},
    "masked": {"background_scope": "none", "background_steps": 0},
}  # settings over the command's own
_PAINTED = ("first_seed", "seeds", "sampler_steps", "cfg", "size")
_MASKED = ("backend", "saliency_model", "grow", "feather", "unit", "edges")
_KEY = "key.txt"


def bench(chosen: Namespace) -> dict:
    """Train, paint and score each subject with each method; what is there of an earlier run is not done again."""
    methods = [name.strip() for name in chosen.methods.split(",") if name.strip()]
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or not methods:
        raise AttractorError(f"--methods: {', '.join(unknown) or '(none)'} is not one of {', '.join(METHODS)}.")
    from ..backend.diffusers_model import load

    cases, out = read_set(Path(chosen.dir), chosen.held_out, chosen.seed), Path(chosen.out)
    model = load(chosen.model)
    names = dict.fromkeys(n for n in (chosen.image_encoder, chosen.text_encoder) if n and n != "none")
    encoders = [load_encoder(name, commands.model_folders(chosen)) for name in names]
    for case in cases:
        word = case.train.class_word
        train_set, _ = commands.masked(case.train, Namespace(**{**vars(chosen), "word": word}), model)
        ready = replace(case, train=train_set)
        keys = {method: _key(model, ready, method, chosen, encoders) for method in methods}
        missing = [m for m in methods if not _is_done(out / case.name / m, keys[m])]
        if not missing:
            continue
        base = _paint(model, None, ready, chosen)
        for method in missing:
            print(f"{case.name}: {method}", file=sys.stderr, flush=True)
            (out / case.name / method / _KEY).unlink(missing_ok=True)
            _one(model, ready, method, chosen, base, encoders)
            write_beside(out / case.name / method / _KEY, lambda path, key=keys[method]: path.write_text(key))
    reports = {m: {case.name: read_report(out / case.name / m / "report.json") for case in cases} for m in methods}
    result = {"format": 1, "methods": methods, "subjects": [case.name for case in cases],
              "rows": over_subjects(reports)}  # fmt: skip
    text = table(result)
    write_beside(out / "bench.md", lambda path: path.write_text(text, encoding="utf-8"))
    commands.write_json(out / "bench.json", result)
    print(text, file=sys.stderr)
    return result


def over_subjects(reports: dict[str, dict[str, dict]]) -> list[dict]:
    """For each measure: each method's mean over subjects, and the differences to the first method with subjects as
    units, or with prompts where there is one subject.
    """
    methods, subjects = list(reports), list(next(iter(reports.values())))
    compared = {s: compare_reports([reports[m][s] for m in methods], methods) if len(methods) > 1 else
                compare_reports([reports[methods[0]][s]] * 2, ["a", "b"]) for s in subjects}  # fmt: skip
    shared = [row.name for row in compared[subjects[0]].rows
              if all(row.name in {r.name for r in c.rows} for c in compared.values())]  # fmt: skip
    rows = []
    for name in shared:
        of = {s: next(r for r in c.rows if r.name == name) for s, c in compared.items()}
        means = [sum(of[s].means[i] for s in subjects) / len(subjects) for i in range(len(methods))]
        differences = []
        for i in range(1, len(methods)):
            found = of[subjects[0]].differences[i - 1] if len(subjects) == 1 else paired(
                [of[s].means[i] for s in subjects], [of[s].means[0] for s in subjects], subjects)  # fmt: skip
            differences.append(found)
        rows.append({"name": name, "more_is_better": of[subjects[0]].more_is_better, "means": means,
                     "differences": differences})  # fmt: skip
    adjusted = iter(family([d for row in rows for d in row["differences"]]))
    return [row | {"differences": [asdict(next(adjusted)) for _ in row["differences"]]} for row in rows]


def table(result: dict) -> str:
    """The result as a table in Markdown."""
    methods = result["methods"]
    head = ["measure", *methods, *(f"{m} less {methods[0]}" for m in methods[1:])]
    lines = [f"{len(result['subjects'])} subjects: {', '.join(result['subjects'])}", "",
             f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]  # fmt: skip
    for row in result["rows"]:
        name = f"{row['name']} ({'more' if row['more_is_better'] else 'less'} is better)"
        cells = [number(mean) for mean in row["means"]] + [str(Difference(**d)) for d in row["differences"]]
        lines.append(f"| {' | '.join([name, *cells])} |")
    units = "subjects" if len(result["subjects"]) > 1 else "prompts"
    below = f"Differences with 95% intervals over {units}; p is corrected for all tests of the table."
    return "\n".join([*lines, "", below])


def _settings(method: str, chosen: Namespace) -> TrainSettings:
    own = {f.name for f in fields(TrainSettings)} - {"seed"}
    return TrainSettings(**{n: getattr(chosen, n) for n in own} | METHODS[method], seed=chosen.seed)


def _key(model: Any, case: Case, method: str, chosen: Namespace, encoders: Sequence[Any]) -> str:
    """Hash of all that a result depends on, so that an earlier one is taken only where nothing changed."""
    what = {
        "settings": asdict(_settings(method, chosen)), "model": model.identity, "prompts": case.prompts,
        "photos": [[p.sha256 for p in part.photos] for part in (case.train, case.test)], "word": case.train.class_word,
        "masks": [None if p.mask is None else hashlib.sha256(p.mask.numpy().tobytes()).hexdigest()
                  for p in case.train.photos], "version": VERSION,
        "encoders": [e.stamp for e in encoders], "format": FORMAT,
        "command": {n: getattr(chosen, n) for n in (*_PAINTED, *_MASKED)},
    }  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _is_done(folder: Path, key: str) -> bool:
    mark = folder / _KEY
    return mark.is_file() and mark.read_text(encoding="utf-8") == key and (folder / "report.json").is_file()


def _one(model: Any, case: Case, method: str, chosen: Namespace, base: Any, encoders: Sequence[Any]) -> None:
    folder = Path(chosen.out) / case.name / method
    settings = _settings(method, chosen)
    runs = RunFolder.of(folder / "runs", model, case.train, settings, None)
    concept, _ = train(model, case.train, settings, None, None, 0, runs)
    save_concept(concept, folder, "concept", "overwrite")
    made = _paint(model, concept, case, chosen)
    write_report(score(made, base, case.train, case.test, encoders), folder)


def _paint(model: Any, concept: Any, case: Case, chosen: Namespace) -> Any:
    seeds, word = range(chosen.first_seed, chosen.first_seed + chosen.seeds), case.train.class_word
    return model.sample(concept, word, case.prompts, seeds, chosen.sampler_steps, chosen.cfg, chosen.size)
