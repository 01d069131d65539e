"""A pilot for someone who decides: what share of a few products' pictures can be used, and what that costs.

Every number that is not measured is the user's, and the page shows all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..attractor.errors import AttractorError
from ..metrics.statistics import interval
from ..metrics.verdict import HALF_WAY, KEPT, LEAST_SPAN
from .summary import report_of
from .sweep import Run, Sweep

_ROOM_OF_A_PROMPT = 0.02  # beyond chance, below which a prompt asks nothing


@dataclass(frozen=True)
class Prices:
    """What the user says, in one currency.

    machine_hour: of one machine, with all of its GPUs. shoot: of one product's photo shoot, all in. photos_per_shoot:
    pictures that one gives. review: of a person who looks at one picture. photos: of the few photos that each product
    is learnt from. setup: once, for beginning with it at all.
    """

    machine_hour: float
    shoot: float
    photos_per_shoot: int = 8
    review: float = 0.0
    photos: float = 0.0
    setup: float = 0.0
    currency: str = "EUR"

    def __post_init__(self) -> None:
        """Raise AttractorError for a price below zero, and for a shoot that costs or gives nothing."""
        for name in ("machine_hour", "review", "photos", "setup"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise AttractorError(f"{name.replace('_', '-')} is {getattr(self, name):g}: a price is 0 or more.")
        if not 0 < self.shoot < float("inf") or self.photos_per_shoot < 1:
            raise AttractorError("shoot and photos-per-shoot: say what a product's photo shoot costs and how many "
                                 "pictures it gives, both above 0.")  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One painted picture. usable, or why not: "subject", "prompt", "copy", or "unknown" where it cannot be told."""

    index: int
    prompt: str
    seed: int
    usable: bool
    why: tuple[str, ...] = ()


@dataclass
class Product:
    """One product of the pilot. seconds: a worker's, "once" and for a "picture". cost: of as many usable pictures as a
    shoot gives. failed: why there are no pictures at all.
    """

    name: str
    run: Run
    pictures: list[Picture] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    grade: str = ""
    failed: str = ""
    cost: float = 0.0

    @property
    def share(self) -> float:
        """Of its pictures that can be used."""
        return sum(p.usable for p in self.pictures) / len(self.pictures) if self.pictures else 0.0


@dataclass(frozen=True)
class Mean:
    """A mean over products with its 95% interval; None for both ends where one product, or products that all came out
    alike, say nothing of others.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], bottom: float = 0.0, top: float = float("inf")) -> Mean:
        """Of these values, whose interval is cut at what is possible."""
        means = np.asarray(values, dtype=float)
        if len(means) < 2 or float(means.std()) == 0:
            return cls(float(means.mean()))
        low, high = interval(means)
        return cls(float(means.mean()), max(bottom, low), min(top, high))


@dataclass(frozen=True)
class Pilot:
    """What the pilot found.

    share: of usable pictures, over products that came through. product: cost of one with as many usable pictures as a
    shoot gives, over all products; one without any pays for the attempt and for a shoot. seconds: a worker's, on
    average, for a product once and for a picture. tasks: that shared a machine. runs_before: taken from the store.
    prompts: whether a text encoder looked at them.
    """

    products: list[Product]
    share: Mean
    product: Mean
    prices: Prices
    seconds: dict[str, float]
    tasks: int
    runs_before: int
    prompts: bool

    @property
    def even(self) -> int | None:
        """Number of products from which on it pays; None where it never does."""
        saved = self.prices.shoot - self.product.value
        return None if saved <= 0 else max(1, int(np.ceil(self.prices.setup / saved)))

    @property
    def picture(self) -> float:
        """Cost of one usable picture."""
        return self.product.value / self.prices.photos_per_shoot

    def total(self, products: int, each: float | None) -> float | None:
        """Cost of so many products at so much each."""
        return None if each is None else self.prices.setup + products * each

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the photos' hashes, by which all of this is found when one must be forgotten."""
        rows = [{"name": p.name, "share": p.share, "cost": p.cost, "grade": p.grade, "verdict": p.verdict,
                 "failed": p.failed, "seconds": p.seconds, "pictures": [asdict(one) for one in p.pictures]}
                for p in self.products]  # fmt: skip
        return {"format": 1, "photos": self.photos, "share": asdict(self.share), "product": asdict(self.product),
                "picture": self.picture, "even": self.even, "prices": asdict(self.prices), "seconds": self.seconds,
                "tasks_on_a_machine": self.tasks, "runs_before": self.runs_before, "prompts_checked": self.prompts,
                "products": rows}  # fmt: skip

    @property
    def photos(self) -> list[str]:
        """SHA-256 of the products' photos."""
        return sorted({one for p in self.products for one in (p.run.record or {}).get("photos", [])})


def pilot(sweep: Sweep, prices: Prices, machines: int = 1) -> Pilot:
    """Judge a sweep of one run a product. machines: on which it ran.

    A machine is taken to run as many tasks at once as each ran here, at the speed that was measured so; runs that were
    in the store already say how many there were beside them. Raises
    AttractorError when no product came through.
    """
    at_once = [int(run.record.get("at_once", 1)) for run in sweep.runs if run.record is not None]
    tasks = max(1, max(at_once, default=1) // machines)
    products = [_product(sweep, run) for run in sweep.runs]
    came = [p for p in products if p.pictures]
    if not came:
        raise AttractorError(f"no product came through, the first because: {products[0].failed}")
    for product in products:
        product.cost = _cost(product, prices, tasks)
    seconds = {name: float(np.mean([p.seconds[name] for p in came])) for name in came[0].seconds}
    text = any(s["kind"] == "text" for s in report_of(sweep, came[0].run)["scores"])
    before = sum(run.state == "stored" for run in sweep.runs)
    return Pilot(products, Mean.of([p.share for p in came], top=1.0), Mean.of([p.cost for p in products]), prices,
                 seconds, tasks, before, text)  # fmt: skip


def _product(sweep: Sweep, run: Run) -> Product:
    found = Product(run.subject, run)
    if run.record is None:
        found.failed = run.reason
        return found
    report = report_of(sweep, run)
    found.pictures = usable(report)
    parts, count = run.record["parts"], len(found.pictures)
    record = sweep.store.record("subjects", run.record["subject_key"])
    prepare = float(record["seconds"]) if record else 0.0
    found.seconds = {"once": prepare + parts["train"], "picture": (parts["paint"] + parts["score"]) / count}
    verdict = report.get("verdict") or {}
    found.verdict, found.grade = verdict.get("headline", ""), verdict.get("grade", "unknown")
    return found


def _cost(product: Product, prices: Prices, tasks: int) -> float:
    """Of a product with as many usable pictures as a shoot gives; without any, of the attempt and of a shoot."""
    second = prices.machine_hour / 3600 / tasks
    each = second * product.seconds.get("picture", 0.0) + prices.review
    once = prices.photos + second * product.seconds.get("once", 0.0)
    if product.share > 0:
        return once + prices.photos_per_shoot / product.share * each
    return once + len(product.pictures) * each + prices.shoot


def usable(report: Mapping[str, Any]) -> list[Picture]:
    """Which pictures of a report can be used: at least half of the way from the base model's pictures to real photos of
    the subject, at least half of what the base model does for that prompt beyond chance, and no copy of a train photo.

    The first image and the first text encoder decide; without a text encoder nothing is asked of the prompt. What
    cannot be told is not usable.
    """
    whole = [s for s in report["scores"] if s.get("region", "whole") == "whole"]
    image = next((s for s in whole if s["kind"] == "image"), None)
    text = next((s for s in whole if s["kind"] == "text"), None)
    likeness = _limit(image, "floor", "ceiling", HALF_WAY, LEAST_SPAN) if image else None
    asked = _asked(text["pictures"]) if text else {}
    copies = (image or {}).get("copies")
    pixels = {copy["picture"] for copy in report.get("pixel_copies") or []}
    found = []
    for i, item in enumerate(report["pictures"]):
        why = []
        if image is None or likeness is None or copies is None:
            why.append("unknown")
        else:
            row = image["pictures"][i]
            why += ["subject"] if row["held_out"] < likeness else []
            why += ["copy"] if row["nearest_train_similarity"] > copies["threshold"] or i in pixels else []
        if text is not None:
            least, own = asked.get(item["prompt"]), text["pictures"][i].get("beyond_chance")
            why += ["unknown"] if least is None or own is None else ["prompt"] if least > 0 and own < least else []
        found.append(Picture(i, item["prompt"], item["seed"], not why, tuple(dict.fromkeys(why))))
    return found


def _asked(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each prompt, what a picture must reach beyond chance: a part of what the base model's pictures of it do.

    0 where those hardly do: such a prompt ("a photo of a cup") asks nothing that the encoder could miss.
    """
    floors: dict[str, list[float]] = {}
    for row in rows:
        if "beyond_chance_floor" in row:
            floors.setdefault(row["prompt"], []).append(row["beyond_chance_floor"])
    means = {prompt: float(np.mean(values)) for prompt, values in floors.items()}
    return {prompt: KEPT * mean if mean > _ROOM_OF_A_PROMPT else 0.0 for prompt, mean in means.items()}


def _limit(score: Mapping[str, Any], low: str, high: str, part: float, room: float) -> float | None:
    a, b = score.get(low), score.get(high)
    return None if a is None or b is None or b - a <= room else a + part * (b - a)
