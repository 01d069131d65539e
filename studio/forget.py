"""Deletion: everything that was made of a photo, found by its hash through run cards, reports and manifests.

What is found: concepts trained on it or on a concept of it, folders of unfinished and finished trainings, results of
sweeps, reports with their comparisons and decisions, pictures that such a concept painted, studies that show it, and
copies of the photo.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..metrics.generations import PNG_TEXT
from ..training.concept import load_concept
from ..training.photos import SUFFIXES
from .gate import digest
from .store import files_of
from .work import PREPARED_OF

_HASH = re.compile(r"[0-9a-f]{64}")
_OF_A_HOST = re.compile(r"sweep-[0-9a-f]{16}")  # a report's folder, where a sweep had a host paint
_SHOWN = re.compile(r'<meta name="attractor-photos" content="([0-9a-f ]*)">')
_STUDY = re.compile(r"[0-9a-f]{16}")
_LARGEST = 100_000_000  # bytes of a record that is looked into
_PAGES = ("report.csv", "report.html", "comparison.html")
_OF_A_RUN = ("state.pt", "curve.csv", "curve.png", "preview-*.png", "events.out.*")
_OF_A_STUDY = ("names.json", "votes.db*", "pictures/*.png")
_ORDER = ("picture", "page", "prepared", "pictures", "sweep", "pilot", "study", "decision", "comparison", "report",
          "training", "concept", "photo")  # fmt: skip
"""Leaves first: what leads to the others goes last, so that a deletion that was cut off can be taken up again."""


@dataclass(frozen=True)
class Trace:
    """Something that was made of the photos. kind: of _ORDER. path: the file that says so; also: files that go with it;
    root: the folder that was looked in. others: SHA-256 of the other photos that a concept needs to be trained again.
    """

    path: Path
    kind: str
    why: str
    root: Path
    also: tuple[Path, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that go, the one that says so last."""
        return (*self.also, self.path)


@dataclass
class Search:
    """photos: SHA-256. traces: what was found. unreadable: what could not be looked into and may hold more.
    mentioned: other records with such a hash in them, which are left alone.
    """

    photos: tuple[str, ...]
    traces: list[Trace] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    mentioned: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """A line for each."""
        lines = [f"{len(self.traces)} things were made of the photos:"]
        lines += [f"  {t.kind}: {t.path} ({t.why})" for t in self.traces]
        again = [t for t in self.traces if t.kind == "concept" and t.others]
        lines += [f"  to be trained again without them: {t.path.stem}, on {len(t.others)} photos" for t in again]
        lines += [f"  left alone, though it names one: {one}" for one in self.mentioned]
        return "\n".join([*lines, *(f"  could not be looked into: {one}" for one in self.unreadable)])


def hashes_of(targets: Sequence[str]) -> tuple[str, ...]:
    """SHA-256 of photos given as files, as folders of photos, or as hashes; of a file also the hash that it has as an
    IMAGE in a graph. Raises AttractorError for anything else.
    """
    found: list[str] = []
    for target in targets:
        path = Path(target)
        inside = sorted(p for p in path.iterdir() if _is_photo(p)) if path.is_dir() else [path]
        if path.is_dir() and not inside:
            raise AttractorError(f"{target}: no photos in this folder.")
        if path.exists():
            found += [one for file in inside for one in (_sha256(file), _as_image(file)) if one]
        elif _HASH.fullmatch(target.lower()):
            found.append(target.lower())
        else:
            raise AttractorError(f"{target}: no such photo or folder, and no SHA-256 either.")
    return tuple(dict.fromkeys(found))


def search(photos: Sequence[str], roots: Sequence[Path]) -> Search:
    """Everything below the roots that was made of the photos (SHA-256). Links are not followed, and are listed."""
    found, wanted = Search(tuple(photos)), set(photos)
    files: dict[Path, Path] = {}
    for root in (root.resolve() for root in roots):
        if not root.is_dir() or root == Path(root.anchor):
            raise AttractorError(f"{root}: no folder to look in. Give ComfyUI's folders, or your own.")
        files |= {path: root for path in _files(root, found.unreadable)}
    cards: dict[Path, tuple[str, dict]] = {}
    records: dict[Path, Any] = {}
    for path in sorted(files):
        with _Guard(path, found.unreadable):
            if path.suffix == ".safetensors" and _is_concept(path):
                concept = load_concept(path)
                cards[path] = (concept.sha256, dict(concept.run_card))
            elif path.suffix == ".safetensors" and wanted & _prepared_of(path):
                found.traces.append(Trace(path, "prepared", "masks of it", files[path]))
            elif path.suffix == ".html" and wanted & _shown_by(path):
                found.traces.append(Trace(path, "page", "shows it", files[path]))
            elif path.suffix == ".json" and path.stat().st_size <= _LARGEST:
                records[path] = json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".json":
                found.unreadable.append(f"{path}: larger than {_LARGEST // 10**6} MB")
    gone = _concepts(cards, records, wanted, found, files)
    for path, record in records.items():
        with _Guard(path, found.unreadable):
            _of_record(path, record, wanted | gone, found, files[path])
    for path in files:
        with _Guard(path, found.unreadable):
            if _is_photo(path) and wanted & {_sha256(path), _as_image(path)}:
                found.traces.append(Trace(path, "photo", "the photo itself", files[path]))
            elif path.suffix.lower() == ".png" and _painted_by(path) & (wanted | gone):
                found.traces.append(Trace(path, "picture", "painted by a concept of it", files[path]))
    single = ("photo", "picture", "page", "prepared")
    taken = {p for t in found.traces if t.kind not in single for p in t.files}
    kept = (t for t in found.traces if t.kind not in single or t.path not in taken)
    found.traces = sorted(dict.fromkeys(kept), key=lambda t: (_ORDER.index(t.kind), str(t.path)))
    return found


def forget(found: Search, receipt: Path, now: datetime | None = None) -> dict:
    """Delete what was found and write a receipt of it: hashes and names below the folders, never a photo or a path.

    Raises AttractorError before anything is deleted when the receipt is there already, and after it was written when
    something could not be deleted or looked into.
    """
    if receipt.exists():
        raise AttractorError(f"{receipt}: is there already, and receipts are kept. Give another name.")
    when = (now or datetime.now(timezone.utc)).isoformat(timespec="seconds")
    rows = [_row(trace) for trace in found.traces]
    record: dict[str, Any] = {
        "format": 1, "at": when, "photos": list(found.photos), "deleted": rows,
        "not_looked_into": [_without_path(one) for one in found.unreadable],
        "left_alone": [Path(one).name for one in found.mentioned], "finished": False,
    }  # fmt: skip
    _write(receipt, record)  # before anything is gone
    failed = []
    for trace, row in zip(found.traces, rows, strict=True):
        for path in trace.files:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                row["failed"] = str(error.strerror)
                failed.append(f"{path}: {error.strerror}")
        _remove_empty(trace)
    record["finished"] = not failed and not found.unreadable
    record["sha256"] = digest(record)
    _write(receipt, record)
    if not record["finished"]:
        left = failed or found.unreadable
        raise AttractorError(f"Not all is certainly gone ({'; '.join(left[:3])}); {receipt} says what is left.")
    return record


def _concepts(
    cards: dict[Path, tuple[str, dict]], records: dict[Path, Any], wanted: set[str], found: Search,
    files: dict[Path, Path],
) -> set[str]:  # fmt: skip
    """Adds the concepts that were made of the photos, and of such concepts; gives their hashes, also of those whose
    files are gone and that only a report speaks of.
    """
    known: list[tuple[Path | None, str, dict]] = [(path, own, card) for path, (own, card) in cards.items()]
    for record in records.values():
        if isinstance(record, dict) and _HASH.fullmatch(str(record.get("concept_sha256"))):
            known.append((None, record["concept_sha256"], record.get("run_card") or {}))
    gone: set[str] = set()
    while True:
        new = []
        for path, own, card in known:
            trained, stopped = _listed(card, "train_photos", "photos_before"), _listed(card, "held_out_photos")
            for why, hit, others in (
                ("trained on it", wanted & trained, trained - wanted),
                ("stopped by it", wanted & stopped, trained),
                ("went on from a concept of it", {card.get("start_concept")} & gone, trained - wanted),
            ):
                if hit:
                    new.append((path, own, why, others))
                    break
        if not new:
            return gone
        for path, own, why, others in new:
            gone.add(own)
            if path is not None:
                found.traces.append(Trace(path, "concept", why, files[path], others=tuple(sorted(others))))
        taken = {(path, own) for path, own, *_ in new}
        known = [one for one in known if one[:2] not in taken]


def _of_record(path: Path, record: Any, wanted: set[str], found: Search, root: Path) -> None:
    """Adds what a JSON file stands for, told by its content."""
    if not isinstance(record, dict):
        return
    folder = path.parent
    inside = folder != root

    def add(kind: str, why: str, patterns: Iterable[str] = ()) -> None:
        also = tuple(p for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file() and p != path)
        found.traces.append(Trace(path, kind, why, root, also))

    text = json.dumps(record)
    hit = any(one in text for one in wanted)
    if path.name == "study.json" and inside and _STUDY.fullmatch(folder.name) and (folder / "names.json").is_file():
        if "concepts" not in record:
            found.unreadable.append(f"{path}: a study of an earlier version does not say whose pictures it shows")
        elif hit:
            add("study", "shows it", _OF_A_STUDY)
    elif (blobs := files_of(record, path)) and path.parent.parent.is_relative_to(root):
        if hit:
            also = tuple(blob for blob in blobs if blob.is_file())
            found.traces.append(Trace(path, "sweep", "made of it in a sweep", root, also))
    elif path.name == "pictures.json" and isinstance(record.get("pictures"), list):
        if hit:
            names = [Path(str(row.get("file", ""))).name for row in record["pictures"] if isinstance(row, dict)]
            add("pictures", "painted by a concept of it", [*filter(_is_plain, names), "sheet.png"])
    elif path.name == "config.json" and inside and "mask_hash" in record:
        if hit:
            add("training", "trained on it", _OF_A_RUN)
    elif hit and isinstance(record.get("products"), list) and "prices" in record:
        add("pilot", "judges it", ("pilot.html",) if path.name == "pilot.json" else ())
    elif hit and "decision" in record and "report_sha256" in record:
        add("decision", "decides on it")
    elif hit and isinstance(record.get("scores"), list) and "train_photos" in record:
        of_a_host = _OF_A_HOST.fullmatch(folder.name) and ("picture_*.png",)
        add("report", "speaks of it", (*_PAGES, *(of_a_host or ())) if path.name == "report.json" else ())
    elif hit and isinstance(record.get("rows"), list) and "concepts" in record:
        add("comparison", "compares it", _PAGES[2:] if path.name == "comparison.json" else ())
    elif hit:
        found.mentioned.append(str(path))


class _Guard:
    """What goes wrong with one file is noted, and the search goes on."""

    def __init__(self, path: Path, unreadable: list[str]):
        self._path, self._unreadable = path, unreadable

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if not isinstance(error, OSError | ValueError | TypeError | AttributeError | RecursionError | AttractorError
                          | KeyError):  # fmt: skip
            return False
        self._unreadable.append(f"{self._path}: {error}")
        return True


def _files(root: Path, unreadable: list[str]) -> Iterable[Path]:
    """All files below a folder; a link is noted and not followed."""
    note: Callable[[OSError], None] = lambda error: unreadable.append(f"{error.filename}: {error.strerror}")  # noqa: E731
    for folder, inside, names in os.walk(root, followlinks=False, onerror=note):
        for name in [*inside, *names]:
            path = Path(folder) / name
            if path.is_symlink():
                unreadable.append(f"{path}: a link; give what it leads to as a folder of its own")
        inside[:] = [name for name in inside if not (Path(folder) / name).is_symlink()]
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
                yield path


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _is_plain(name: str) -> bool:
    """A file's name that is no pattern."""
    return bool(name) and not any(c in name for c in "*?[")


def _painted_by(path: Path) -> set[str]:
    """Hashes of the concept, and of the photos behind it, that a picture says of itself."""
    try:
        with Image.open(path) as picture:
            made = json.loads(getattr(picture, "text", {}).get(PNG_TEXT, "{}"))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError):
        return set()
    if not isinstance(made, dict):
        return set()
    return {str(made.get("concept_sha256"))} | _listed(made.get("run_card"), "train_photos", "photos_before")


def _shown_by(path: Path) -> set[str]:
    """Hashes of the photos that one of our pages shows; it says so at its beginning."""
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _SHOWN.search(file.read(1 << 20))
    return set(found[1].split()) if found else set()


def _prepared_of(path: Path) -> set[str]:
    """Hashes of the photos whose masks a sweep keeps in this file."""
    with safe_open(path, "pt") as file:
        return set(json.loads((file.metadata() or {}).get(PREPARED_OF, "[]")))


def _is_concept(path: Path) -> bool:
    """Whether a safetensors file has our run card; only its header is read."""
    try:
        with safe_open(path, "pt") as file:
            return "attractor" in (file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"damaged ({error})") from error


def _listed(card: Any, *names: str) -> set[str]:
    return {str(one) for name in names for one in (card.get(name) or [])} if isinstance(card, dict) else set()


def _remove_empty(trace: Trace) -> None:
    """The folder of a training or a study, once nothing is in it."""
    if trace.kind in ("training", "study"):
        for folder in (trace.path.parent / "pictures", trace.path.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _row(trace: Trace) -> dict:
    files = [{"file": p.relative_to(trace.root).as_posix(), "sha256": _sha256(p)} for p in trace.files if p.is_file()]
    row = {"kind": trace.kind, "below": trace.root.name, "why": trace.why, "files": files}
    return row | ({"train_again_on": list(trace.others)} if trace.others else {})


def _without_path(line: str) -> str:
    path, _, why = line.partition(": ")
    return f"{Path(path).name}: {why.replace(path, Path(path).name)}"


def _write(path: Path, record: dict) -> None:
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False)
    write_beside(path, lambda file: file.write_text(text, encoding="utf-8"))


def _as_image(path: Path) -> str:
    """The hash that a photo has when it comes into a graph as an IMAGE: of its upright 8-bit pixels."""
    try:
        with Image.open(path) as image:
            return hashlib.sha256(np.array(ImageOps.exif_transpose(image).convert("RGB")).tobytes()).hexdigest()
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return ""


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
