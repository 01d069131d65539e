"""The pilot's page: one file, pictures inside, for someone who decides."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..metrics.charts import break_even_svg
from ..metrics.generations import from_picture
from ..metrics.page import template, thumbnail, vector
from ..training.photos import SUFFIXES, read_photo
from .pilot import Pilot, Product
from .summary import report_of
from .sweep import Sweep

_SHOWN, _PICTURES = 24, 6


def write_pilot(found: Pilot, sweep: Sweep, folder: Path) -> tuple[Path, Path]:
    """Write folder/pilot.json and pilot.html; gives both paths."""
    data, page = folder / "pilot.json", folder / "pilot.html"
    text, html = json.dumps(found.as_dict(), indent=1, ensure_ascii=False), render(found, sweep)
    write_beside(data, lambda path: path.write_text(text, encoding="utf-8"))
    write_beside(page, lambda path: path.write_text(html, encoding="utf-8"))
    return data, page


def headline(found: Pilot) -> str:
    """The answer in a sentence."""
    prices, even = found.prices, found.even
    failed = sum(not p.pictures for p in found.products)
    lost = f" {failed} of {len(found.products)} products could not be tried." if failed else ""
    lost += "" if found.prompts else " Whether pictures follow their prompts was not checked: no text encoder."
    shoot = prices.shoot / prices.photos_per_shoot
    each = f"{found.picture:,.2f} {prices.currency} a usable picture, {shoot:,.2f} by a photo shoot"
    if not any(p.share for p in found.products):
        unknown = [one for p in found.products for one in p.pictures if "unknown" in one.why]
        if unknown:
            return (f"Whether it pays cannot be said: of {len(unknown)} pictures nothing could be judged. It takes two "
                    f"held-out photos of a product, two prompts, and an encoder that knows it.{lost}")  # fmt: skip
        return f"None of the pictures can be used, so it does not pay at any price.{lost}"
    if even is None:
        return f"It does not pay: {each}.{lost}"
    when = "from the first product on" if even == 1 else f"from {even} products on"
    return f"It pays {when}: {each}.{lost}"


def render(found: Pilot, sweep: Sweep) -> str:
    """The page as HTML."""
    came = [p for p in found.products if p.pictures]
    report = report_of(sweep, came[0].run)
    kinds = {s["kind"]: s["stamp"]["encoder"] for s in reversed(report["scores"])}
    seconds = sum(p.seconds["once"] + p.seconds["picture"] * len(p.pictures) for p in came)
    return template("pilot.html.j2", Path(__file__).parent).render(
        p=found, headline=headline(found), came=len(came), chart=vector(_chart(found)),
        demo="demo" == sweep.plan.model, encoders=sorted(kinds.values()), hours=seconds / 3600 / found.tasks,
        shoots=sum(not one.share for one in found.products),
        shown=[_shown(product, sweep) for product in found.products[:_SHOWN]],
        more=max(0, len(found.products) - _SHOWN),
    )  # fmt: skip


def _chart(found: Pilot) -> bytes:
    last = max(10, 2 * (found.even or 5))
    products = [last * i // 20 for i in range(21)] if last > 20 else list(range(last + 1))
    ours = [_line(found, products, each) for each in (found.product.value, found.product.low, found.product.high)]
    shoots = [n * found.prices.shoot for n in products]
    return break_even_svg(products, shoots, ours, found.even, found.prices.currency)


def _line(found: Pilot, products: Sequence[int], each: float | None) -> list[float] | None:
    return None if each is None else [float(found.total(n, each) or 0) for n in products]


def _shown(product: Product, sweep: Sweep) -> dict[str, Any]:
    """A product's section: the pictures that can be used first, then those that cannot, each with why."""
    order = sorted(product.pictures, key=lambda p: (not p.usable, p.seed, p.index))
    good, bad = [p for p in order if p.usable], [p for p in order if not p.usable]
    kept = good[: _PICTURES - min(2, len(bad))]
    chosen = kept + bad[: _PICTURES - len(kept)]
    pictures = [{"image": thumbnail(_picture(product, sweep, p.index), 160), "why": p.why, "prompt": p.prompt}
                for p in chosen]  # fmt: skip
    return {"name": product.name, "failed": product.failed, "grade": product.grade, "verdict": product.verdict,
            "count": len(product.pictures), "usable": len(good), "pictures": pictures,
            "photo": _photo(product.name, sweep)}  # fmt: skip


def _picture(product: Product, sweep: Sweep, index: int) -> Any:
    data = sweep.store.file(product.run.record or {"files": {}}, f"{index:04d}.png")
    with Image.open(io.BytesIO(data)) as picture:
        return from_picture(picture)


def _photo(name: str, sweep: Sweep) -> str:
    """The first photo that can be read, of those to learn from."""
    folder = next(f.path for f in sweep.folders if f.name == name)
    folder = folder / "train" if (folder / "train").is_dir() else folder
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            return thumbnail(read_photo(path).pixels, 224)
        except AttractorError:
            continue
    return ""
