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
from ..metrics.verdict import HALF_WAY, KEPT
from .summary import report_of
from .sweep import Run, Sweep

_ROOM = 0.05  # between floor and ceiling, below which an encoder cannot tell a likeness


@dataclass(frozen=True)
class Prices:
    """What the user says, in one currency.

    machine_hour: of a machine that runs as many tasks at once as this one did. shoot: of one product's photo shoot, all
    in. photos_per_shoot: pictures that one gives. review: of a person who looks at one picture. photos: of the few
    photos that each product is learnt from. setup: once, for beginning with it at all.
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
    """One product of the pilot. seconds: of a worker, by part. failed: why there are no pictures at all."""

    name: str
    run: Run
    pictures: list[Picture] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    grade: str = ""
    failed: str = ""

    @property
    def share(self) -> float:
        """Of its pictures that can be used."""
        return sum(p.usable for p in self.pictures) / len(self.pictures) if self.pictures else 0.0


@dataclass(frozen=True)
class Costs:
    """Of one product with as many usable pictures as a shoot gives, and the number of products from which on it pays.

    low, high: with the usable share at the ends of its interval, the better first; None where no picture can be used.
    shoots: share of products that need a shoot after all. even: None where it never pays.
    """

    product: float | None
    low: float | None
    high: float | None
    picture: float | None
    shoot_picture: float
    shoots: float
    even: int | None
    machine_seconds: dict[str, float]


@dataclass(frozen=True)
class Pilot:
    """What the pilot found. share: of usable pictures, over products that came through, with its 95% interval."""

    products: list[Product]
    share: float
    low: float
    high: float
    prices: Prices
    slots: int
    costs: Costs

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{"name": p.name, "share": p.share, "grade": p.grade, "verdict": p.verdict, "failed": p.failed,
                 "seconds": p.seconds, "pictures": [asdict(one) for one in p.pictures]}
                for p in self.products]  # fmt: skip
        return {"format": 1, "share": self.share, "low": self.low, "high": self.high, "prices": asdict(self.prices),
                "tasks_at_once": self.slots, "costs": asdict(self.costs), "products": rows}  # fmt: skip

    def total(self, products: int, share: float) -> float | None:
        """Cost of so many products at a usable share; None where none is usable."""
        one = _product_cost(self.prices, self.slots, self.costs.machine_seconds, share, self.costs.shoots)
        return None if one is None else self.prices.setup + products * one


def pilot(sweep: Sweep, prices: Prices, slots: int) -> Pilot:
    """Judge a sweep of one run a product. slots: tasks that ran at once.

    Raises AttractorError when no product came through.
    """
    prepared = {run.subject: _prepare_seconds(sweep, run) for run in sweep.runs}
    products = [_product(sweep, run, prepared[run.subject]) for run in sweep.runs]
    came = [p for p in products if p.pictures]
    if not came:
        raise AttractorError(f"no product came through, the first because: {products[0].failed}")
    shares = np.array([p.share for p in came])
    share = float(shares.mean())
    low, high = interval(shares) if len(came) > 1 else (0.0, 1.0)
    low, high = max(0.0, low), min(1.0, high)
    seconds = {name: float(np.mean([p.seconds[name] for p in came])) for name in came[0].seconds}
    shoots = sum(not p.pictures or p.share == 0 for p in products) / len(products)
    costs = _costs(prices, slots, seconds, (share, low, high), shoots)
    return Pilot(products, share, low, high, prices, slots, costs)


def _product(sweep: Sweep, run: Run, prepare: float) -> Product:
    found = Product(run.subject, run)
    if run.record is None:
        found.failed = run.reason
        return found
    report = report_of(sweep, run)
    found.pictures = usable(report)
    parts, count = run.record["parts"], len(found.pictures)
    found.seconds = {"once": prepare + parts["train"], "picture": (parts["paint"] + parts["score"]) / count}
    verdict = report.get("verdict") or {}
    found.verdict, found.grade = verdict.get("headline", ""), verdict.get("grade", "unknown")
    return found


def usable(report: Mapping[str, Any]) -> list[Picture]:
    """Which pictures of a report can be used: at least half of the way from the base model's pictures to real photos of
    the subject, at least half of what the base model does for the prompt beyond chance, and no copy of a train photo.

    The first image and the first text encoder decide. What cannot be told is not usable.
    """
    whole = [s for s in report["scores"] if s.get("region", "whole") == "whole"]
    image = next((s for s in whole if s["kind"] == "image"), None)
    text = next((s for s in whole if s["kind"] == "text"), None)
    likeness = _limit(image, "floor", "ceiling", HALF_WAY, _ROOM) if image else None
    prompt = _limit(text, "chance_floor", "floor", KEPT, 0.0) if text else None
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
            why += ["unknown"] if prompt is None else ["prompt"] if text["pictures"][i]["text"] < prompt else []
        found.append(Picture(i, item["prompt"], item["seed"], not why, tuple(dict.fromkeys(why))))
    return found


def _limit(score: Mapping[str, Any], low: str, high: str, part: float, room: float) -> float | None:
    a, b = score.get(low), score.get(high)
    return None if a is None or b is None or b - a <= room else a + part * (b - a)


def _prepare_seconds(sweep: Sweep, run: Run) -> float:
    record = sweep.store.record("subjects", run.record["subject_key"]) if run.record else None
    return float(record["seconds"]) if record else 0.0


def _product_cost(
    prices: Prices, slots: int, seconds: Mapping[str, float], share: float, shoots: float
) -> float | None:
    """One product with as many usable pictures as a shoot gives; those that cannot be done pay for a shoot as well."""
    if share <= 0:
        return None
    hour = prices.machine_hour / 3600 / slots
    painted = prices.photos_per_shoot / share
    made = prices.photos + hour * seconds["once"] + painted * (hour * seconds["picture"] + prices.review)
    return made + shoots * prices.shoot


def _costs(
    prices: Prices, slots: int, seconds: dict[str, float], shares: Sequence[float], shoots: float
) -> Costs:
    product, worst, best = (_product_cost(prices, slots, seconds, share, shoots) for share in shares)
    even = None
    if product is not None and product < prices.shoot:
        even = int(np.ceil(prices.setup / (prices.shoot - product))) if prices.setup else 1
    picture = None if product is None else product / prices.photos_per_shoot
    return Costs(product, best, worst, picture, prices.shoot / prices.photos_per_shoot, shoots, even, seconds)
