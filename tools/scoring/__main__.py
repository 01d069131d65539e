"""`make bench-scoring`: are copies of a shot found, are different photos left apart, and how long does it take.

Writes docs/benchmarks/scoring.json and its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...metrics import duplicates
from ...metrics.encoders import BATCH, load_encoder
from ...metrics.splits import split_set
from ...metrics.statistics import coverage
from ...training.photos import Photo, subject_set
from .. import benchmarks
from . import copier, gaps
from .labelled import SAME_SHOT, as_photo, copies, read_all

_PHOTOS = Path(os.environ.get("DREAMBOOTH_PHOTOS", benchmarks.ROOT.parent / "shared" / "data" / "dreambooth"))
_EVERY = 3  # of the photos, copies are made of so many


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; `--write` keeps it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=_PHOTOS, help="folder with a folder of photos for each subject")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks")
    chosen = parser.parse_args(argv)
    photos = read_all(chosen.photos)
    made = _copies(photos, chosen.photos)
    figures = {"duplicates.photos": float(len(photos)), "duplicates.copies": float(sum(map(len, made.values())))}
    figures |= pair_by_pair(photos, made)
    figures |= in_a_large_set(photos, made)
    figures |= throughput(photos)
    found = copier.measure(chosen.photos)
    figures |= copier.figures(found)
    figures |= gaps.measure(chosen.photos)
    by_units = {units: coverage(units) for units in (4, 8, 20)}
    figures |= {f"bootstrap.coverage_{units}": held for units, held in by_units.items()}
    figures["bootstrap.coverage"] = by_units[20]
    for name, value in figures.items():
        print(f"{name:44s} {value:.4f}", flush=True)
    if chosen.write:
        copier.chart(found, benchmarks.FOLDER / "copier.png")
        record = benchmarks.write_record("scoring", figures)
        benchmarks.write_section("scoring", "Scoring: copies, different photos, time", _section(record, figures))
    return 0


def _copies(photos: Sequence[Photo], folder: Path) -> dict[int, list[Photo]]:
    """Copies of every third photo, by the photo's place."""
    found = {}
    for i in range(0, len(photos), _EVERY):
        original = Image.open(folder / photos[i].name).convert("RGB")
        found[i] = [as_photo(image, f"{photos[i].name} {name}") for name, image in copies(original).items()]
    return found


def pair_by_pair(photos: Sequence[Photo], made: dict[int, list[Photo]]) -> dict[str, float]:
    """Each photo beside each of its copies, and beside every other photo."""
    of_copies = [(photos[i], copy) for i, own in made.items() for copy in own]
    pairs = [(a, b) for a, b in combinations(photos, 2) if (a.name, b.name) not in SAME_SHOT]
    kinds = _kinds([*of_copies, *pairs])
    total = len(of_copies)
    missed = [copy.name for (_, copy), kind in zip(of_copies, kinds, strict=False) if kind != "duplicate"]
    tied = [(a.name, b.name) for (a, b), kind in zip(pairs, kinds[total:], strict=True) if kind == "duplicate"]
    print(f"missed: {missed}\ntied: {tied} of {len(pairs)}")
    return {"duplicates.recall": 1 - len(missed) / total, "duplicates.pairs": float(len(pairs)),
            "duplicates.false_ties_per_1000": 1000 * len(tied) / len(pairs)}  # fmt: skip


_JOBS: list[tuple[Photo, Photo]] = []  # what forked workers look at


def _kinds(jobs: list[tuple[Photo, Photo]]) -> list[str]:
    """What each pair is found to be, on all cores."""
    _JOBS[:] = jobs
    with get_context("fork").Pool(os.cpu_count()) as pool:
        return pool.map(_kind, range(len(jobs)), chunksize=64)


def _kind(job: int) -> str:
    torch.set_num_threads(1)
    return duplicates.compare(*_JOBS[job], duplicates.Thresholds()).kind


def in_a_large_set(photos: Sequence[Photo], made: dict[int, list[Photo]]) -> dict[str, float]:
    """The split of 200 photos, copies among them, of which only candidate pairs are compared."""
    whole = [*photos, *(copy for own in made.values() for copy in own)][:200]
    duplicates.forget()
    began = time.perf_counter()
    split = split_set(subject_set(whole, "thing"), 0.2, 0)
    seconds = time.perf_counter() - began
    group = {name: number for number, names in enumerate(split.groups) for name in names}
    there = {photo.name for photo in whole}
    together = [photos[i].name in group and group[photos[i].name] == group.get(copy.name)
                for i, own in made.items() for copy in own if copy.name in there]  # fmt: skip
    pairs = [(a.name, b.name) for a, b in combinations(photos, 2) if (a.name, b.name) not in SAME_SHOT]
    wrong = [(a, b) for a, b in pairs if a in group and group[a] == group.get(b)]
    return {"large_set.recall": float(np.mean(together)), "large_set.false_ties": float(len(wrong)),
            "split_200_seconds": seconds}  # fmt: skip


def throughput(photos: Sequence[Photo]) -> dict[str, float]:
    """Seconds of the features of 256 pictures, preprocessing included, over the bare encoder's batched forward."""
    encoder = load_encoder("efficientnet-lite0", [])
    pictures = torch.stack([torch.nn.functional.interpolate(photos[i % len(photos)].pixels[None], (224, 224))[0]
                            for i in range(256)])  # fmt: skip
    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(3):
        began = time.perf_counter()
        encoder.images(pictures)
        taken["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        with torch.no_grad():
            for part in pictures.split(BATCH):
                encoder.module(part)
        taken["bare"].append(time.perf_counter() - began)
    ours, bare = min(taken["ours"]), min(taken["bare"])
    return {"throughput_over_bare": ours / bare, "throughput.pictures_per_second": len(pictures) / ours}


def _section(record: dict, figures: dict[str, float]) -> str:
    rows = [
        ("copies of a shot that are found, pair by pair", f"{figures['duplicates.recall']:.3f}", "at least .98"),
        ("different photos tied together, of 1,000 pairs", f"{figures['duplicates.false_ties_per_1000']:.2f}",
         "at most 1"),
        ("copies that fall into their photo's group in a set of 200", f"{figures['large_set.recall']:.3f}", "–"),
        ("pairs of photos wrongly in one group there", f"{figures['large_set.false_ties']:.0f}", "–"),
        ("split of 200 photos, seconds", f"{figures['split_200_seconds']:.0f}", "under 60"),
        ("95% intervals that hold, 1,000 worlds of 20 prompts", f"{figures['bootstrap.coverage']:.3f}", ".93 to .97"),
        ("the same with 8 and with 4 prompts",
         f"{figures['bootstrap.coverage_8']:.3f}, {figures['bootstrap.coverage_4']:.3f}", "–"),
        ("features of 256 pictures over the bare encoder", f"{figures['throughput_over_bare']:.2f}", "1.10"),
        ("subjects of which the field's score prefers a generator that only copies",
         f"{figures['copier.field_prefers_it']:.2f} of {figures['copier.subjects']:.0f}", "–"),
        ("subjects of which its verdict here is worse than an honest generator's",
         f"{figures['copier.verdict_is_worse']:.2f}", "1"),
        ("of which it is called a copier; the honest one is",
         f"{figures['copier.called_a_copier']:.2f}; {figures['copier.honest_called_a_copier']:.2f}", "–"),
        (f"of {figures['gap.splits']:.0f} splits of photos that are alike to the generator, with a memorisation gap "
         "for certain; with prompts alone as units",
         f"{figures['gap.honest_certain']:.3f}; {figures['gap.honest_certain_by_prompts_alone']:.3f}", "at most .05"),
        ("the same of a generator that only copies",
         f"{figures['gap.copier_certain']:.3f}; {figures['gap.copier_certain_by_prompts_alone']:.3f}", "–"),
        *((f"gaps above {limit:g}: alike; only copies; upper ends of those alike",
           "; ".join(f"{figures[f'gap.{of}_above_{limit}']:.3f}" for of in ("honest", "copier", "honest_upper_end")),
           "–") for limit in gaps.LIMITS),
    ]  # fmt: skip
    head = (
        f"`make bench-scoring` on {record['date']}, {record['machine']}, commit {record['commit']}: "
        f"{figures['duplicates.photos']:.0f} DreamBooth photos, {figures['duplicates.copies']:.0f} copies of every "
        "third of them (mirrored, recompressed, a third of the size, shifted, cropped, mirrored and cropped, rotated "
        "by 5 degrees, framed, brighter, recoloured, watermarked) and "
        f"{figures['duplicates.pairs']:.0f} pairs of different photos. "
        "The set of 200 holds all the photos and the first of the copies. The thresholds were chosen on the same "
        "photos.\n\n| what | figure | asked |\n|---|---|---|\n"
    )
    return head + "\n".join(f"| {what} | {value} | {asked} |" for what, value, asked in rows)


if __name__ == "__main__":
    sys.exit(main())
