"""Sets of many subjects for benchmarks and sweeps: a folder of folders, split beforehand or not, with prompts.

    DIR/prompts.txt               one prompt a line, <subject> where it belongs
    DIR/SUBJECT/class.txt         what it is, such as dog; without it the folder's name says so
    DIR/SUBJECT/train/*.jpg       photos to learn from
    DIR/SUBJECT/test/*.jpg        photos to score on
    DIR/SUBJECT/prompts.txt       prompts of this subject alone, in the place of DIR's

Where train and test are missing, SUBJECT's photos are split as `attractor split` does. DreamBooth's own folder with its
prompts_and_classes.txt is read as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..attractor.errors import AttractorError
from ..attractor.prompts import SUBJECT
from ..metrics.splits import check_disjoint, split_set
from ..training.photos import SUFFIXES, SubjectSet, read_folder
from ..training.rights import manifest_file

_DREAMBOOTH = "prompts_and_classes.txt"


@dataclass(frozen=True)
class Case:
    """One subject of a set: its photos to learn from and to score on, and its prompts."""

    name: str
    train: SubjectSet
    test: SubjectSet
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """One subject of a set before its photos are read. wrong: why it cannot be used."""

    name: str
    path: Path
    word: str
    prompts: tuple[str, ...]
    wrong: str = ""

    def read(self, held_out: float, seed: int) -> Case:
        """Its photos, split where they are not. held_out, seed: of that split. Raises AttractorError, naming the
        subject, when photos cannot be read or split, or a test photo is a near-duplicate of one to learn from.
        """
        if self.wrong:
            raise AttractorError(self.wrong)
        try:
            if not (self.path / "train").is_dir():
                split = split_set(read_folder(self.path, self.word), held_out, seed)
                return Case(self.name, split.train, split.held_out, self.prompts)
            beside = manifest_file(self.path)
            train, test = (read_folder(self.path / part, self.word, beside) for part in ("train", "test"))
            check_disjoint(train, test)
        except AttractorError as error:
            raise AttractorError(f"{self.name}: {error}") from error
        return Case(self.name, train, test, self.prompts)


def find_subjects(folder: Path, default_prompts: Sequence[str] = ()) -> list[Folder]:
    """All subjects of a set, in the order of their names; no photo is opened.

    default_prompts: where the set has none. What is wrong with one subject is kept with it; raises AttractorError when
    there is none.
    """
    if not folder.is_dir():
        raise AttractorError(f"{folder}: no such folder. Give a folder with a folder of photos for each subject.")
    classes, prompts = _dreambooth(folder / _DREAMBOOTH)
    prompts = {"": _lines(folder / "prompts.txt")} if (folder / "prompts.txt").is_file() else prompts
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            one = _found(path, classes, prompts, default_prompts)
        except (AttractorError, OSError) as error:
            why = str(error) if isinstance(error, AttractorError) else f"{path.name}: {error.strerror}."
            one = Folder(path.name, path, path.name, (), why)
        found += [one] if one else []
    if not found:
        raise AttractorError(f"{folder}: no folder in it holds photos. Give a folder with a folder for each subject.")
    return found


def _found(
    path: Path, classes: Mapping[str, str], prompts: Mapping[str, list[str]], default_prompts: Sequence[str]
) -> Folder | None:
    """A subject's folder; None where there are no photos in it."""
    if not (path / "train").is_dir() and not any(f.suffix.lower() in SUFFIXES for f in path.iterdir()):
        return None
    for part in (p for p in (path / "train", path / "test") if p.is_dir()):
        manifest_file(part, manifest_file(path))  # one that lies in both places is said
    given = _lines(path / "class.txt") if (path / "class.txt").is_file() else []
    word = given[0] if given else classes.get(path.name, path.name.replace("_", " "))
    own = _lines(path / "prompts.txt") if (path / "prompts.txt").is_file() else None
    kind = "live" if word in ("cat", "dog") else "object"
    wanted = own or prompts.get(kind) or prompts.get("") or list(default_prompts)
    if not wanted:
        file = path.parent / "prompts.txt"
        raise AttractorError(f"{path.name}: no prompts. Write {file}, one a line, with {SUBJECT} in each.")
    missing = [p for p in wanted if SUBJECT not in p]
    if missing:
        raise AttractorError(f"{path.name}: the prompt {missing[0]!r} has no {SUBJECT} in it: write it there.")
    return Folder(path.name, path, word, tuple(wanted))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AttractorError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _dreambooth(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Class words by subject, and the prompts for objects and for live subjects, of DreamBooth's own file."""
    if not path.is_file():
        return {}, {}
    text = "\n".join(_lines(path))
    classes = dict(re.findall(r"^(\w+),([\w ]+)$", text, re.M))
    classes.pop("subject_name", None)
    objects, _, live = text.partition("Live Subject Prompts")
    prompts = {kind: [p.replace("{0} {1}", SUBJECT) for p in re.findall(r"^'(.*)'\.format", part, re.M)]
               for kind, part in (("object", objects), ("live", live))}  # fmt: skip
    return classes, {kind: found for kind, found in prompts.items() if found}
