"""A blind study: pairs of pictures that people choose from, kept in a folder with the votes in SQLite.

A study's folder holds study.json (what is asked, and which picture is whose), names.json (what the runs are called),
pictures/ and votes.db. Its name is a hash of pictures, question and choice of pairs, so that the same pictures and
question are the same study, whatever the runs are called, and their votes are found again. The folder must lie where no
server gives out files: what voters may see goes through Study.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..attractor.prompts import spoken
from ..training.photos import Photo
from ..training.run_card import photos_seen_by
from .generations import Generations, to_picture
from .people import People, Vote, count

QUESTIONS = {
    "subject": "Which picture shows this very {word} more faithfully?",
    "prompt": "Which picture follows the description better?",
    "overall": "Which picture would you rather have for this description of this very {word}?",
}
CHOICES = ("left", "right", "tie")
_OTHER_SIDE = {"left": "right", "right": "left"}
_ID, _TOKEN, _RATER = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{24}"), re.compile(r"[A-Za-z0-9_-]{8,64}")
_SPOILT_TILES = 4  # a side
_REFERENCES = 4
_SEEN = 0.02  # mean difference of a spoilt picture from the whole one, from which on anybody sees it
_TABLE = """CREATE TABLE IF NOT EXISTS votes (
    rater TEXT NOT NULL, item INTEGER NOT NULL, choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie')),
    seconds REAL NOT NULL, at TEXT NOT NULL, PRIMARY KEY (rater, item))"""


def create(
    root: Path, runs: Sequence[Generations], names: Sequence[str], question: str, most: int, seed: int,
    references: Sequence[Photo] = (),
) -> Study:  # fmt: skip
    """Make a study of runs of the same prompts and seeds, or find the one that is there.

    most: pairs that are asked at most, taken evenly from all prompts; a tenth as many, two at least, are added to catch
    raters who do not look. references: photos of the subject that are shown beside the question.
    Raises AttractorError for runs that do not pair and for names that are not as many and different.
    """
    if len(runs) < 2 or len(names) != len(runs) or len(set(names)) < len(names) or not all(names):
        raise AttractorError(f"names: {len(names)} for {len(runs)} runs: write a different name for each, one a line.")
    for name, run in zip(names[1:], runs[1:], strict=True):
        if sorted(run.keys) != sorted(runs[0].keys):
            raise AttractorError(f"{name} was painted with other prompts or seeds than {names[0]}: paint all runs of a "
                                 "study with the same.")
    pictures = [dict(zip(run.keys, run.images, strict=True)) for run in runs]
    rng = np.random.default_rng(seed)
    items: list[dict] = []
    files: dict[str, Tensor] = {}

    def add(image: Tensor) -> str:
        eight_bit = (image.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
        digest = hashlib.sha256(eight_bit.numpy().tobytes()).hexdigest()
        files[digest] = image
        return digest

    for key, first, second in _chosen(runs[0].keys, list(combinations(range(len(runs)), 2)), most, rng):
        a, b = add(pictures[first][key]), add(pictures[second][key])
        items.append({"prompt": key[0], "seed": key[1], "first": first, "second": second, "pictures": [a, b]})
    items += _catches(items, files, add, rng)
    shown = [add(_small(photo.pixels)) for photo in references[:_REFERENCES]] if question != "prompt" else []
    manifest = {"format": 1, "question": question, "references": shown, "items": items}
    folder = root / hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    named = json.dumps({"methods": list(names), "word": runs[0].class_word or "subject"})
    if not (folder / "study.json").is_file():
        made_of = {
            "photos": sorted({p.sha256 for p in (references[:_REFERENCES] if shown else ())}.union(
                *(photos_seen_by(run.concept) for run in runs if run.concept is not None))),
            "concepts": sorted({run.concept.sha256 for run in runs if run.concept is not None}),
            "painted_by": [run.concept.sha256 if run.concept is not None else "" for run in runs],
        }
        _write(folder, manifest, named, files, made_of)
    write_beside(folder / "names.json", lambda path: path.write_text(named, encoding="utf-8"))
    return open_study(root, folder.name)


def open_study(root: Path, name: str) -> Study:
    """The study of that id. Raises NotThere when there is none."""
    folder = root / name
    if not _ID.fullmatch(name) or not (folder / "study.json").is_file():
        raise NotThere("There is no study of this address. Open the link that the Study node gives.")
    manifest, named = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("study.json", "names.json"))
    return Study(folder, manifest, tuple(named["methods"]), named["word"])


def others_with_votes(root: Path, study: Study) -> list[str]:
    """Ids of other studies that ask the same of the same prompts and have votes: this one may be theirs, changed."""
    prompts, found = {item["prompt"] for item in study.manifest["items"]}, []
    for path in sorted(root.glob("*/votes.db")):
        if path.parent.name == study.id or not _ID.fullmatch(path.parent.name):
            continue
        other = open_study(root, path.parent.name)
        same = {item["prompt"] for item in other.manifest["items"]} == prompts
        if same and other.manifest["question"] == study.manifest["question"] and other.result().votes:
            found.append(other.id)
    return found


def state_of(root: Path) -> str:
    """Changes whenever a study below root gets a vote."""
    found = sorted(root.glob("*/votes.db*")) if root.is_dir() else []
    return ";".join(f"{p.parent.name}/{p.name}:{p.stat().st_mtime_ns}:{p.stat().st_size}" for p in found)


class NotThere(AttractorError):
    """There is no such study, or no such picture in it."""


class VotesError(AttractorError):
    """The votes cannot be read or written; the message has a path in it, which is not for voters."""


@dataclass(frozen=True)
class Study:
    """A study's folder, what its study.json holds, what the runs are called, and what the subject is."""

    folder: Path
    manifest: dict
    names: tuple[str, ...]
    word: str

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the last part of its address."""
        return self.folder.name

    def picture(self, token: str) -> bytes:
        """One of this study's pictures as PNG. Raises NotThere for any other."""
        if not _TOKEN.fullmatch(token) or token not in self._tokens:
            raise NotThere("This study has no such picture.")
        return (self.folder / "pictures" / f"{token}.png").read_bytes()

    def state(self, rater: str) -> dict:
        """What a rater is shown: the question, and all pairs in this rater's order and sides, with the votes so far."""
        _check_rater(rater)
        with self._votes() as database:
            given: dict[int, str] = dict(database.execute("SELECT item, choice FROM votes WHERE rater = ?", (rater,)))
        word = self.word
        pairs = []
        for item, turned in self._order(rater):
            entry = self.manifest["items"][item]
            left, right = entry["pictures"][::-1] if turned else entry["pictures"]
            choice = given.get(item)
            if choice is not None and turned:
                choice = _OTHER_SIDE.get(choice, choice)
            pairs.append({"left": left, "right": right, "choice": choice,
                          "prompt": spoken(entry["prompt"], f"this {word}")})  # fmt: skip
        kind = self.manifest["question"]
        return {
            "question": QUESTIONS[kind].format(word=word), "kind": kind, "word": word,
            "references": self.manifest["references"], "pairs": pairs,
        }  # fmt: skip

    def vote(self, rater: str, position: int, choice: str, seconds: float, left: str | None = None) -> None:
        """Keep one vote, on disk before this returns; voting again changes it. left: the picture that was seen there.

        Raises AttractorError for a rater, position or choice that cannot be, or where another picture is on the left.
        """
        _check_rater(rater)
        order = self._order(rater)
        if choice not in CHOICES or isinstance(position, bool) or not isinstance(position, int):  # from a request
            raise AttractorError(f"A vote is one of {', '.join(CHOICES)}, for a pair by its number.")
        if not 0 <= position < len(order):
            raise AttractorError(f"This study has {len(order)} pairs; there is no pair {position + 1}.")
        item, turned = order[position]
        if left is not None and left != self.manifest["items"][item]["pictures"][1 if turned else 0]:
            raise AttractorError("This vote is for another rater's pair. Reload the page.")
        if turned:
            choice = _OTHER_SIDE.get(choice, choice)
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        spent = float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e6 else 0.0
        with self._votes() as database:
            database.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?)", (rater, item, choice, spent, at))

    def result(self) -> People:
        """What people have said so far."""
        with self._votes() as database:
            rows = database.execute("SELECT rater, item, choice FROM votes ORDER BY at, rater, item").fetchall()
        votes = []
        for rater, item, choice in rows:
            entry = self.manifest["items"][item]
            value = {"left": 1.0, "right": 0.0, "tie": 0.5}[choice]
            first, second = self.names[entry["first"]], self.names[entry["second"]]
            votes.append(Vote(rater, (entry["prompt"], entry["seed"]), first, second, value, bool(entry.get("catch"))))
        found = count(votes, self.names, self.manifest["question"])
        painted_by = dict(zip(self.names, self.manifest.get("painted_by") or (), strict=False))
        return replace(found, concepts=tuple(self.manifest.get("concepts") or ()), painted_by=painted_by)

    @property
    def _tokens(self) -> set[str]:
        return {*self.manifest["references"], *(t for item in self.manifest["items"] for t in item["pictures"])}

    def _order(self, rater: str) -> list[tuple[int, bool]]:
        """(item, whether its sides are changed) in the order of this rater, the same each time."""
        digest = hashlib.sha256(f"{self.id} {rater}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        total = len(self.manifest["items"])
        return list(zip(rng.permutation(total).tolist(), (rng.random(total) < 0.5).tolist(), strict=True))

    @contextmanager
    def _votes(self) -> Iterator[sqlite3.Connection]:
        """The database, committed and synced at the end of the block; others who write are waited for."""
        try:
            with closing(sqlite3.connect(self.folder / "votes.db", timeout=30)) as database:
                database.execute("PRAGMA synchronous = FULL")
                with database:
                    database.execute(_TABLE)
                    yield database
        except sqlite3.Error as error:
            path = self.folder / "votes.db"
            raise VotesError(f"{path}: the votes cannot be read or written ({error}).") from error


def _chosen(
    keys: Sequence[tuple[str, int]], pairs: list[tuple[int, int]], most: int, rng: np.random.Generator
) -> list[tuple[tuple[str, int], int, int]]:
    """At most `most` of all pictures' pairs of runs, from each prompt in turn, and within it from each pair of runs."""
    rounds: list[list] = []
    prompts = list(dict.fromkeys(prompt for prompt, _ in keys))
    turn = rng.permutation(len(pairs)).tolist()
    for place, prompt in enumerate(rng.permutation(len(prompts)).tolist()):
        own = [key for key in keys if key[0] == prompts[prompt]]
        seeds = rng.permutation(len(own)).tolist()
        order = [pairs[turn[(place + i) % len(pairs)]] for i in range(len(pairs))]
        mine = [(own[i], first, second) for i in seeds for first, second in order]
        for number, one in enumerate(mine):
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(one)
    return [one for each in rounds for one in each][:most]


def _catches(
    items: list[dict], files: dict[str, Tensor], add: Callable[[Tensor], str], rng: np.random.Generator
) -> list[dict]:
    """Pairs of a picture and the same with its tiles mixed up: a tenth of the pairs, two at least; of pictures on which
    that shows.
    """
    wanted, found = max(2, len(items) // 10), []
    sides = [(item, side) for item in items for side in (0, 1)]
    for i in rng.permutation(len(sides)):
        if len(found) == wanted:
            break
        item, side = sides[i]
        whole = files[item["pictures"][side]]
        spoilt = _spoil(whole, rng)
        if float((spoilt - whole[:, : spoilt.shape[1], : spoilt.shape[2]]).abs().mean()) < _SEEN:
            continue
        run = item["second" if side else "first"]
        pair = [item["pictures"][side], add(spoilt)]
        found.append({**item, "first": run, "second": run, "pictures": pair, "catch": True})
    return found


def _spoil(image: Tensor, rng: np.random.Generator) -> Tensor:
    """The picture with its tiles in another order: worse by any question."""
    n = _SPOILT_TILES
    rows, columns = (s // n for s in image.shape[-2:])
    tiles = [image[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] for i in range(n) for j in range(n)]
    order = np.roll(rng.permutation(n * n), 1)
    return torch.cat([torch.cat([tiles[order[i * n + j]] for j in range(n)], -1) for i in range(n)], -2)


def _small(pixels: Tensor, side: int = 512) -> Tensor:
    scale = side / max(pixels.shape[-2:])
    if scale >= 1:
        return pixels
    size = tuple(max(1, round(s * scale)) for s in pixels.shape[-2:])
    return torch.nn.functional.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _write(folder: Path, manifest: dict, named: str, files: dict[str, Tensor], made_of: dict) -> None:
    """Write the folder beside its place, then rename. made_of: hashes by which the study is found again from a photo.

    Pictures get names with a secret in them, for a hash of its pixels would tell a picture to whoever has it.
    """
    secret = secrets.token_hex(16)
    token = {digest: hashlib.sha256(f"{secret} {digest}".encode()).hexdigest()[:24] for digest in files}
    items = [{**item, "pictures": [token[d] for d in item["pictures"]]} for item in manifest["items"]]
    shown = [token[digest] for digest in manifest["references"]]
    text = json.dumps({**manifest, **made_of, "references": shown, "items": items}, indent=1)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        (staging / "pictures").mkdir(parents=True)
        for digest in sorted(files, key=token.__getitem__):
            to_picture(files[digest]).save(staging / "pictures" / f"{token[digest]}.png", "PNG")
        (staging / "study.json").write_text(text, encoding="utf-8")
        (staging / "names.json").write_text(named, encoding="utf-8")
        staging.rename(folder)
    except OSError as error:
        if not (folder / "study.json").is_file():  # unless another run was quicker with the same study
            raise AttractorError(f"{folder}: the study cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_rater(rater: str) -> None:
    if not isinstance(rater, str) or not _RATER.fullmatch(rater):
        raise AttractorError("A rater is 8 to 64 letters, digits, - and _.")
