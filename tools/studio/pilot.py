"""`python -P -m attractor_pack.tools.studio.pilot`: docs/pilot.html, of eight demo things and a damaged one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from ...cli.main import main as attractor
from ..host import ROOT
from .catalogue import write_catalogue

_PLAN = """subjects: products
methods: [attractor]
settings: {steps: 300, background_steps: 150, batch_size: 4, resolution: 64, vectors: 3}
painting: {seeds: 3, steps: 20, cfg: 3, size: 64}
image_encoder: demo-dino
text_encoder: demo-clip
together: 2
"""
_PRICES = ("--machine-hour", "2.50", "--shoot", "300", "--photos-per-shoot", "8", "--review", "0.40", "--photos", "5",
           "--setup", "2000")  # fmt: skip


def main() -> int:
    """Run it, some five minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        products = write_catalogue(folder / "products", 8)
        shutil.copytree(products / "item-02", products / "item-08")
        damaged = products / "item-08" / "train" / "01.png"
        damaged.write_bytes(damaged.read_bytes()[:600])
        (folder / "plan.yaml").write_text(_PLAN, encoding="utf-8")
        ended = attractor(["pilot", str(products), "--plan", str(folder / "plan.yaml"), "--out", str(folder / "out"),
                           "--products", "0", "--json", str(folder / "pilot.json"), *_PRICES])  # fmt: skip
        if ended == 0:
            shutil.copy(folder / "out" / "pilot.html", ROOT / "docs" / "pilot.html")
        return ended


if __name__ == "__main__":
    sys.exit(main())
