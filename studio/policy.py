"""Policies: the rules that a scored concept must keep to be released."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..attractor.errors import AttractorError
from .measures import MEASURES

FOLDER = Path(__file__).parent / "policies"
NAMES = ("internal-draft", "catalogue", "public-campaign")  # those that come with the pack, from lax to strict
_KEYS = {"measure", "at_least", "at_most", "why", "unknown"}


@dataclass(frozen=True)
class Rule:
    """A measure with its limits, and why they lie there. passes_unknown: whether what could not be measured passes."""

    measure: str
    at_least: float | None
    at_most: float | None
    why: str
    passes_unknown: bool = False

    def holds(self, value: float | None) -> bool:
        """Whether a measured value keeps the rule."""
        if value is None:
            return self.passes_unknown
        if not math.isfinite(value):
            return False
        return not ((self.at_least is not None and value < self.at_least)
                    or (self.at_most is not None and value > self.at_most))  # fmt: skip

    @property
    def limit(self) -> str:
        """In words."""
        least = [] if self.at_least is None else [f"at least {self.at_least:g}"]
        return " and ".join([*least, *([] if self.at_most is None else [f"at most {self.at_most:g}"])])


@dataclass(frozen=True)
class Policy:
    """name, about: what it is for; rules; sha256: of the file."""

    name: str
    about: str
    rules: tuple[Rule, ...]
    sha256: str


def load_policy(name_or_file: str) -> Policy:
    """One of NAMES, or a JSON file. Raises AttractorError, naming file and rule, for what cannot be followed."""
    path = FOLDER / f"{name_or_file}.json" if name_or_file in NAMES else Path(name_or_file)
    try:
        data = path.read_bytes()
        read: Any = json.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise AttractorError(f"{name_or_file}: no such policy. Give a file, or one of {', '.join(NAMES)}.") from None
    except OSError as error:
        raise AttractorError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise AttractorError(f"{path.name}: not JSON ({error}).") from error
    listed = read.get("rules") if isinstance(read, dict) else None
    if not isinstance(listed, list) or not listed:
        raise AttractorError(f"{path.name}: a policy is an object with 'name', 'about' and a list of 'rules'.")
    if read.get("format", 1) != 1:
        raise AttractorError(f"{path.name}: of format {read['format']}; this version reads 1. Update the pack.")
    rules = tuple(_rule(one, f"{path.name}, rule {i}") for i, one in enumerate(listed, 1))
    _check_agree(rules, path.name)
    name = str(read.get("name") or path.stem)
    return Policy(name, str(read.get("about", "")), rules, hashlib.sha256(data).hexdigest())


def _rule(given: Any, where: str) -> Rule:
    if not isinstance(given, dict) or given.get("measure") not in MEASURES:
        told = given.get("measure") if isinstance(given, dict) else given
        raise AttractorError(f"{where}: no measure {told!r}. There are: {', '.join(MEASURES)}.")
    if unknown := set(given) - _KEYS:
        raise AttractorError(f"{where}: unknown {', '.join(sorted(unknown))}. A rule has {', '.join(sorted(_KEYS))}.")
    limits = []
    for key in ("at_least", "at_most"):
        value = given.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise AttractorError(f"{where}: {key} is {value!r}. Write a number.")
        limits.append(None if value is None else float(value))
    if limits == [None, None]:
        raise AttractorError(f"{where}: has neither at_least nor at_most, so it would never block.")
    if given.get("unknown", "blocks") not in ("blocks", "passes"):
        raise AttractorError(f"{where}: unknown is {given['unknown']!r}. Write 'blocks' or 'passes'.")
    return Rule(given["measure"], limits[0], limits[1], str(given.get("why", "")), given.get("unknown") == "passes")


def _check_agree(rules: tuple[Rule, ...], file: str) -> None:
    """Refuse limits that nothing can keep at once."""
    for name in {rule.measure for rule in rules}:
        own = [rule for rule in rules if rule.measure == name]
        least = max((r.at_least for r in own if r.at_least is not None), default=None)
        most = min((r.at_most for r in own if r.at_most is not None), default=None)
        if least is not None and most is not None and least > most:
            raise AttractorError(
                f"{file}: contradicts itself: {name} would have to be at least {least:g} and at most {most:g}."
            )
