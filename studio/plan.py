"""A sweep's plan: subjects x methods x settings x seeds, from a YAML file (docs/studio.md)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from ..attractor.errors import AttractorError
from ..attractor.masks import UNITS, Refinement
from ..attractor.photo_masks import BACK_ENDS
from ..attractor.prompts import SUBJECT
from ..attractor.saliency import KINDS
from ..training.settings import TrainSettings

METHODS: dict[str, dict] = {
    "attractor": {},
    "plain": {"strength": 0.0, "background_scope": "none", "background_steps": 0},
    "masked": {"background_scope": "none", "background_steps": 0},
}
"""Settings over the plan's own, of the methods that have a name."""
MOST_RUNS = 200_000


@dataclass(frozen=True)
class Masking:
    """How attractor masks are made; see photo_masks.mask_set and masks.Refinement."""

    backend: str = "auto"
    saliency_model: str = "u2netp"
    grow: float = 0.0
    feather: float = 4.0
    unit: str = UNITS[0]
    edges: float = 0.0

    def __post_init__(self) -> None:
        """Raise AttractorError for what there is not."""
        known = [name for name in BACK_ENDS if name != "external"]
        if self.backend not in known:
            raise AttractorError(f"masking: backend is {self.backend!r}: one of {', '.join(known)}.")
        if self.saliency_model not in KINDS:
            raise AttractorError(f"masking: saliency_model is {self.saliency_model!r}: one of {', '.join(KINDS)}.")
        self.refinement()

    def refinement(self) -> Refinement:
        """The part of it that shapes a raw mask."""
        return Refinement(self.grow, self.feather, unit=self.unit, edges=self.edges)


@dataclass(frozen=True)
class Painting:
    """The pictures that are scored: so many seeds of each prompt, from first_seed on. size: side in pixels."""

    seeds: int = 2
    first_seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    size: int = 512
    negative: str = ""

    def __post_init__(self) -> None:
        """Raise AttractorError for a value that cannot be."""
        for name, low, high in (("seeds", 1, 1000), ("steps", 1, 1000), ("size", 64, 4096), ("cfg", 1, 100)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise AttractorError(f"painting: {name} is {value:g}: it lies between {low} and {high}.")


@dataclass(frozen=True)
class Plan:
    """What is to be trained, painted and scored.

    subjects: a folder of folders, see sets.py. model: as `attractor train --model`. methods: name to settings over
    `settings`, which are over the defaults of TrainSettings. grid: setting to the values that are tried, all with all.
    seeds: of the training. held_out, split_seed: of the split where a subject has none. prompts: where the set has
    none. models: folder with encoders and models for masks. limit: at most so many subjects, spread evenly over the
    names; 0 for all. together: runs in one task and one batch. cpus, gpus: of one task; gpus may be a fraction, and
    None takes a whole one where there is any.
    """

    subjects: str
    model: str = "demo"
    methods: dict[str, dict] = field(default_factory=lambda: {"attractor": {}, "plain": dict(METHODS["plain"])})
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    held_out: float = 0.3
    split_seed: int = 0
    prompts: tuple[str, ...] = ()
    masking: Masking = Masking()
    painting: Painting = Painting()
    image_encoder: str = "efficientnet-lite0"
    text_encoder: str = ""
    models: str = ""
    limit: int = 0
    together: int = 4
    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Raise AttractorError, naming the key, for a value that cannot be."""
        for name, value, low, high in (
            ("together", self.together, 1, 256), ("cpus", self.cpus, 1, 1024), ("gpus", self.gpus or 0, 0, 8),
            ("limit", self.limit, 0, MOST_RUNS),
        ):  # fmt: skip
            if not low <= value <= high:
                raise AttractorError(f"{name} is {value:g}: it lies between {low} and {high}.")
        if self.held_out <= 0:
            raise AttractorError(f"held_out is {self.held_out:g}: a count of photos, or a fraction of them above 0.")
        for name in ("methods", "seeds"):
            if not getattr(self, name):
                raise AttractorError(f"{name} is empty: nothing would be trained.")
        if len(set(self.seeds)) < len(self.seeds):
            raise AttractorError(f"seeds: {', '.join(map(str, self.seeds))} names one twice.")
        for name, values in self.grid.items():
            if len({repr(value) for value in values}) < len(values):
                raise AttractorError(f"grid: {name} names a value twice.")
        without = [prompt for prompt in self.prompts if SUBJECT not in prompt]
        if without:
            raise AttractorError(f"prompts: {without[0]!r} has no {SUBJECT} in it: write it there.")
        for method, variant, seed in self.runs_of_a_subject():
            self.training(method, variant, seed)

    @property
    def variants(self) -> list[dict[str, Any]]:
        """Every combination of the grid; one empty one where there is no grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def runs_of_a_subject(self) -> list[tuple[str, dict[str, Any], int]]:
        """Method, variant and seed of each run."""
        each = len(self.methods) * math.prod(map(len, self.grid.values())) * len(self.seeds)
        if each > MOST_RUNS:
            raise AttractorError(f"the plan asks for {each:,} runs of each subject; at most {MOST_RUNS:,} in all.")
        return list(product(self.methods, self.variants, self.seeds))

    def training(self, method: str, variant: dict[str, Any], seed: int) -> TrainSettings:
        """Settings of one run. Raises AttractorError, naming the setting, for one that there is not."""
        given = self.settings | self.methods[method] | variant
        known = {f.name: f for f in fields(TrainSettings) if f.name != "seed"}
        unknown = [name for name in given if name not in known]
        if unknown:
            raise AttractorError(f"{unknown[0]!r} is no setting of the training; there are {', '.join(known)}.")
        kinds = get_type_hints(TrainSettings)
        return TrainSettings(**{n: _as(v, kinds[n], n) for n, v in given.items()}, seed=seed)

    def as_dict(self) -> dict:
        """For JSON, and for a worker."""
        return asdict(self)

    @classmethod
    def of(cls, data: Any, beside: Path | None = None) -> Plan:
        """A plan from what a YAML file holds. beside: folder from which relative paths start.

        Raises AttractorError, naming the key, for what is no plan.
        """
        if not isinstance(data, dict):
            raise AttractorError("a plan is a list of 'key: value' lines; see docs/studio.md.")
        given = _known(data, cls, "")
        if isinstance(given.get("subjects"), str) and beside is not None and given["subjects"]:
            given["subjects"] = str(beside / Path(given["subjects"]).expanduser())
        for name in ("model", "models"):
            path = Path(str(given.get(name) or "")).expanduser()
            if given.get(name) not in (None, "", "demo") and beside is not None and (beside / path).exists():
                given[name] = str(beside / path)
        given["methods"] = {name: _settings(own) for name, own in _methods(
            given.get("methods", ["attractor", "plain"])).items()}  # fmt: skip
        given["grid"] = {name: [_settings({name: value})[name] for value in _list(values, f"grid: {name}")]
                         for name, values in _dict(given, "grid").items()}  # fmt: skip
        given["settings"] = _settings(_dict(given, "settings"))
        given["seeds"] = tuple(_as(s, int, "seeds") for s in _list(given.get("seeds", [0]), "seeds"))
        given["prompts"] = tuple(str(p) for p in _list(given.get("prompts") or [], "prompts"))
        for name, kind in (("masking", Masking), ("painting", Painting)):
            part, kinds = _known(_dict(given, name), kind, f"{name}: "), get_type_hints(kind)
            given[name] = kind(**{n: _as(v, kinds[n], f"{name}: {n}") for n, v in part.items()})
        plain = {"subjects": str, "model": str, "image_encoder": str, "text_encoder": str, "models": str,
                 "held_out": float, "split_seed": int, "limit": int, "together": int, "cpus": int}  # fmt: skip
        given |= {name: _as(given[name], kind, name) for name, kind in plain.items() if name in given}
        if given.get("gpus") is not None:
            given["gpus"] = _as(given["gpus"], float, "gpus")
        return cls(**given)


def read_plan(path: Path, subjects: str = "") -> Plan:
    """A plan from a YAML file. subjects: in the place of the file's own.

    Raises AttractorError, naming the file, when there is something wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AttractorError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return plan_from(text, str(path), path.resolve().parent, subjects)


def plan_from(text: str, where: str, beside: Path | None, subjects: str = "") -> Plan:
    """A plan from YAML. where: what messages call it. beside: where relative paths start. subjects: see read_plan."""
    try:
        import yaml
    except ImportError as error:
        raise AttractorError("Sweeps need PyYAML: run 'pip install pyyaml'.") from error
    try:
        data = yaml.safe_load(text)
        return Plan.of({**data, "subjects": str(Path(subjects).resolve())} if subjects and data else data, beside)
    except yaml.YAMLError as error:
        raise AttractorError(f"{where}: not YAML ({' '.join(str(error).split())}).") from error
    except AttractorError as error:
        raise AttractorError(f"{where}: {error}") from error


def digest(data: Any) -> str:
    """SHA-256 of data as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _methods(given: Any) -> dict[str, dict]:
    """A list of known names, or a name with settings each."""
    names_only = isinstance(given, list) and all(isinstance(one, str) for one in given)
    named = {one: METHODS.get(one) for one in given} if names_only else given
    if not isinstance(named, dict):
        raise AttractorError(f"methods: a list of {', '.join(METHODS)}, or 'name: {{settings}}' lines.")
    found = {}
    for name, own in named.items():
        own = METHODS.get(name) if own is None else own
        if not isinstance(own, dict):
            raise AttractorError(f"methods: {name!r} is not one of {', '.join(METHODS)}: give its settings.")
        found[str(name)] = METHODS.get(name, {}) | own
    return found


def _settings(given: dict) -> dict[str, Any]:
    """Settings of the training with numbers as they are meant; what there is not is left to `Plan.training`."""
    kinds = get_type_hints(TrainSettings)
    return {str(name): _as(value, kinds[name], str(name)) if name in kinds else value for name, value in given.items()}


def _known(data: dict, kind: Any, where: str) -> dict[str, Any]:
    known = [f.name for f in fields(kind)]
    unknown = [str(name) for name in data if name not in known]
    if unknown:
        raise AttractorError(f"{where}{unknown[0]!r} is not known; there are {', '.join(known)}.")
    missing = [f.name for f in fields(kind)
               if f.default is MISSING and f.default_factory is MISSING and not data.get(f.name)]  # fmt: skip
    if missing:
        raise AttractorError(f"{where}{missing[0]} is missing.")
    return dict(data)


def _dict(given: dict, name: str) -> dict:
    value = given.get(name) or {}
    if not isinstance(value, dict):
        raise AttractorError(f"{name}: 'key: value' lines are expected, not {value!r}.")
    return value


def _list(value: Any, name: str) -> Sequence:
    if not isinstance(value, list | tuple):
        raise AttractorError(f"{name}: a list is expected, such as [1, 2], not {value!r}.")
    if name.startswith("grid") and not value:
        raise AttractorError(f"{name}: the list is empty, so nothing would be trained.")
    return value


def _as(value: Any, kind: type, name: str) -> Any:
    """A value as the kind that is expected. YAML reads 1e-3 as a text, and 7 as a whole number."""
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            value = float(value)
        except ValueError:
            pass
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise AttractorError(f"{name} is {value!r}: {_KINDS[kind]} is expected.")


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
