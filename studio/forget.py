"""Deletion: everything that was made of a photo, found by its hash through run cards, reports and manifests.

What is found: concepts trained on it or on a concept of it, folders of unfinished and finished trainings, reports with
their comparisons and decisions, pictures that such a concept painted, studies that show it, and copies of the photo.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..attractor.errors import AttractorError
from ..training.concept import load_concept, write_beside
from ..training.photos import SUFFIXES
from .gate import digest

_HASH = 64
_REPORTS = ("report.json", "comparison.json", "decision.json")
_PAGES = {"report.json": ("report.csv", "report.html"), "comparison.json": ("comparison.html",), "decision.json": ()}


@dataclass(frozen=True)
class Trace:
    """Something that was made of the photos. kind: photo, concept, training, report, pictures or study. also: files
    that go with it. others: SHA-256 of the other photos that a concept needs if it is trained again.
    """

    path: Path
    kind: str
    why: str
    also: tuple[Path, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """What was found, and what could not be read and may hold more."""

    photos: tuple[str, ...]
    traces: tuple[Trace, ...]
    unreadable: tuple[str, ...]

    @property
    def text(self) -> str:
        """A line for each."""
        lines = [f"{len(self.traces)} things were made of {len(self.photos)} photos:"]
        lines += [f"  {t.kind}: {t.path} ({t.why})" for t in self.traces]
        again = [t for t in self.traces if t.kind == "concept" and t.others]
        lines += [f"  to be trained again without them: {t.path.stem}, on {len(t.others)} photos" for t in again]
        return "\n".join([*lines, *(f"  not looked into: {one}" for one in self.unreadable)])


def hashes_of(targets: Sequence[str]) -> tuple[str, ...]:
    """SHA-256 of photos given as files, as folders of photos, or as hashes. Raises AttractorError for anything else."""
    found: list[str] = []
    for target in targets:
        path = Path(target)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not inside:
                raise AttractorError(f"{target}: no photos in this folder.")
            found += [_sha256(p) for p in inside]
        elif path.is_file():
            found.append(_sha256(path))
        elif len(target) == _HASH and all(c in "0123456789abcdef" for c in target.lower()):
            found.append(target.lower())
        else:
            raise AttractorError(f"{target}: no such photo or folder, and no SHA-256 either.")
    return tuple(dict.fromkeys(found))


def search(photos: Sequence[str], roots: Sequence[Path]) -> Search:
    """Everything below the roots that was made of the photos (SHA-256). Links are not followed out of a root."""
    for root in roots:
        if not root.is_dir():
            raise AttractorError(f"{root}: no such folder to look in.")
    wanted, unreadable, traces = set(photos), [], []
    files = sorted({path for root in roots for path in _files(root)})
    concepts: dict[Path, tuple[str, dict]] = {}
    for path in files:
        if path.suffix == ".safetensors":
            try:
                concept = load_concept(path)
            except AttractorError as error:
                if "attractor" in path.name or _mentions(path, wanted):
                    unreadable.append(f"{path}: {error}")
                continue
            concepts[path] = (concept.sha256, concept.run_card)
    gone = _concepts(concepts, wanted, traces)
    for path in files:
        try:
            traces += _of_file(path, wanted, gone)
        except (OSError, ValueError) as error:
            unreadable.append(f"{path}: {error}")
    return Search(tuple(photos), tuple(_once(traces)), tuple(unreadable))


def forget(found: Search, receipt: Path, now: datetime | None = None) -> dict:
    """Delete what was found and write a receipt of it: hashes and names, never a photo. Raises AttractorError, after
    the receipt was written, when something could not be deleted.
    """
    when = (now or datetime.now(timezone.utc)).isoformat(timespec="seconds")
    rows = [_row(trace) for trace in found.traces]
    record = {"format": 1, "at": when, "photos": list(found.photos), "deleted": rows,
              "not_looked_into": list(found.unreadable)}  # fmt: skip
    _write(receipt, {**record, "finished": False})  # before anything is gone
    failed = []
    for trace, row in zip(found.traces, rows, strict=True):
        for path in (trace.path, *trace.also):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                row["failed"] = str(error)
                failed.append(f"{path}: {error.strerror}")
    record["finished"] = not failed
    record["sha256"] = digest(record)
    _write(receipt, record)
    if failed:
        raise AttractorError(f"Not all could be deleted ({'; '.join(failed[:3])}); {receipt} says what is left.")
    return record


def _concepts(concepts: dict[Path, tuple[str, dict]], wanted: set[str], traces: list[Trace]) -> set[str]:
    """Adds the concepts that were made of the photos, and of such concepts; gives their hashes."""
    gone: set[str] = set()
    left = dict(concepts)
    while True:
        new = {}
        for path, (own, card) in left.items():
            trained = [str(p) for name in ("train_photos", "photos_before") for p in card.get(name) or []]
            stopped = [str(p) for p in card.get("held_out_photos") or []]
            if wanted & set(trained):
                new[path] = (own, "trained on it", tuple(sorted(set(trained) - wanted)))
            elif wanted & set(stopped):
                new[path] = (own, "stopped by it", tuple(sorted(trained)))
            elif card.get("start_concept") in gone:
                new[path] = (own, "went on from a concept of it", tuple(sorted(trained)))
        if not new:
            return gone
        for path, (own, why, others) in new.items():
            gone.add(own)
            traces.append(Trace(path, "concept", why, others=others))
            del left[path]


def _of_file(path: Path, wanted: set[str], gone: set[str]) -> Iterable[Trace]:
    if path.suffix.lower() in SUFFIXES and _sha256(path) in wanted:
        yield Trace(path, "photo", "the photo itself")
    elif path.name in _REPORTS:
        text = path.read_text(encoding="utf-8")
        if any(one in text for one in wanted | gone):
            also = tuple(p for name in _PAGES[path.name] if (p := path.with_name(name)).is_file())
            yield Trace(path, "report", "speaks of it", also)
    elif path.name == "config.json" and path.parent.parent.name == "runs":
        if any(one in path.read_text(encoding="utf-8") for one in wanted | gone):
            yield Trace(path.parent, "training", "trained on it")
    elif path.name == "pictures.json":
        read = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(read, dict) and read.get("concept") in gone:
            names = [path.parent / Path(str(row.get("file", ""))).name for row in read.get("pictures", [])]
            also = tuple(p for p in (*names, path.parent / "sheet.png") if p.is_file())
            yield Trace(path, "pictures", "painted by a concept of it", also)
    elif path.name == "study.json":
        read = json.loads(path.read_text(encoding="utf-8"))
        named = {*(read.get("photos") or []), *(read.get("concepts") or [])} if isinstance(read, dict) else set()
        if named & (wanted | gone):
            yield Trace(path.parent, "study", "shows it")


def _files(root: Path) -> Iterable[Path]:
    """All files below a folder; a link to elsewhere is not followed."""
    for folder, inside, names in os.walk(root, followlinks=False):
        inside[:] = [name for name in inside if not (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in names if not (Path(folder) / name).is_symlink())


def _once(traces: Iterable[Trace]) -> list[Trace]:
    """Without what lies in a folder that goes as a whole."""
    folders = {t.path for t in traces if t.kind in ("training", "study")}
    return [t for t in dict.fromkeys(traces) if not any(parent in folders for parent in t.path.parents)]


def _mentions(path: Path, wanted: set[str]) -> bool:
    with path.open("rb") as file:
        start = file.read(1_000_000)
    return any(one.encode() in start for one in wanted)


def _row(trace: Trace) -> dict:
    row = {"kind": trace.kind, "name": trace.path.name, "why": trace.why, "files": 1 + len(trace.also)}
    if trace.path.is_file():
        row["sha256"] = _sha256(trace.path)
    return row | ({"train_again_on": list(trace.others)} if trace.others else {})


def _write(path: Path, record: dict) -> None:
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False)
    write_beside(path, lambda file: file.write_text(text, encoding="utf-8"))


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
