"""`make bench-leak`: how far backgrounds move toward the training photos', with and without an attractor.

One demo subject, five photos of one shoot, the models of the real host, masks by saliency. A first look, with its
picture; the benchmark with many subjects and seeds is another one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from .checkpoints import import_host
from .host import ROOT
from .models import fetch_u2netp

METHODS = {
    "plain TI": {"background_scope": "none", "strength": 0.0},
    "mask-weighted loss": {"background_scope": "none", "strength": 1.0},
    "attractor, no mask in its loss": {"strength": 0.0},
    "attractor and mask": {"strength": 1.0},
}
GRADES = {
    "full": "a photo of a <subject> on a red plain background",
    "partial": "a photo of a <subject> on a wooden background",
    "bare": "a photo of a <subject>",
}
BORDER = 8  # pixels at the top, left and right that count as background


def main() -> int:
    """Train each method with each seed, paint, print the table, and write figures and picture with --write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training-seeds", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=8, help="of each prompt")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks/leak.json and docs/leak.jpg")
    chosen = parser.parse_args()
    import_host()
    figures, rows = _measure(chosen.training_seeds, chosen.pictures)
    print(f"{'method':34s}" + "".join(f"{grade:>10s}" for grade in GRADES))
    for name in METHODS:
        print(f"{name:34s}" + "".join(f"{figures[f'{name}.{grade}']:10.3f}" for grade in GRADES))
    if chosen.write:
        _write(figures, rows, chosen)
    return 0


def _measure(training_seeds: int, pictures: int) -> tuple[dict[str, float], list]:
    """Shift toward the training background by method and grade (0 the floor's, 1 the photos'), and the pictures."""
    import torch

    from ..attractor.masks import Refinement
    from ..attractor.photo_masks import mask_set
    from ..attractor.saliency import SaliencyModel
    from ..nodes.host import demo
    from ..nodes.host.model import HostModel
    from ..nodes.host.sampling import SamplerSettings, sample_grid
    from ..training import demo_assets
    from ..training.loop import train
    from ..training.settings import TrainSettings

    model, clip, vae = demo.load()
    host = HostModel(model, clip, vae)
    subject = demo_assets.subject()
    shoot = subject.with_photos([p for p in subject.photos if p.name.startswith("shoot")])
    shoot = mask_set(shoot, "saliency", Refinement(), saliency=SaliencyModel(fetch_u2netp()))
    sampler = SamplerSettings(steps=20, cfg=4.0, width=64, height=64)
    prompts, seeds = list(GRADES.values()), range(pictures)

    def paint(concept):
        return sample_grid(model, clip, vae, concept, subject.class_word, prompts, seeds, sampler, pictures).images

    base = paint(None)
    start, target = _border(base), _border(torch.stack([p.pixels for p in shoot.photos])).mean(0)
    figures: dict[str, float] = {}
    rows = [("the word alone", base)]
    for name, settings in METHODS.items():
        shifts, images, began = [], base, time.perf_counter()
        for seed in range(training_seeds):
            chosen = TrainSettings(steps=300, background_steps=150, vectors=3, resolution=64, zoom=1.2, seed=seed,
                                   **settings)  # fmt: skip
            with torch.inference_mode():
                concept, _ = train(host, shoot, chosen)
                images = paint(concept)
            shifts.append(_shift(_border(images), start, target, len(GRADES)))
        mean = torch.stack(shifts).mean(0).tolist()
        figures |= {f"{name}.{grade}": round(value, 4) for grade, value in zip(GRADES, mean, strict=True)}
        figures[f"{name}.seconds"] = round((time.perf_counter() - began) / training_seeds, 1)
        rows.append((name, images))
    return figures, rows


def _shift(now, start, target, grades: int):
    """How far borders [N, 3] moved from `start` [N, 3] toward `target` [3]: [grades], 0 not at all, 1 all the way.

    The slope of the least-squares line through the pictures of a grade, so that a picture whose floor is near the
    target already does not count for more than the others.
    """
    way = target - start
    along = ((now - start) * way).sum(1).view(grades, -1).sum(1)
    return along / (way * way).sum(1).view(grades, -1).sum(1)


def _border(images):
    """Mean colour [B, 3] of the top, left and right border of images [B, 3, H, W]."""
    import torch

    parts = [images[:, :, :BORDER].flatten(2), images[..., :BORDER].flatten(2), images[..., -BORDER:].flatten(2)]
    return torch.cat(parts, -1).mean(-1)


def _write(figures: dict[str, float], rows: list, chosen: argparse.Namespace) -> None:
    from PIL import Image, ImageDraw, ImageFont

    from ..metrics.generations import to_picture

    folder = ROOT / "docs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "date": date.today().isoformat(), "machine": "2 CPU cores", "commit": commit,
        "seeds": {"training": chosen.training_seeds, "pictures": chosen.pictures}, "figures": figures,
    }  # fmt: skip
    (folder / "leak.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    side, shown, left, top = 112, min(4, chosen.pictures), 190, 26
    sheet = Image.new("RGB", (left + side * shown * len(GRADES), top + side * len(rows)), "#16191d")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for j, prompt in enumerate(GRADES.values()):
        pen.text((left + j * side * shown + 4, 5), prompt.replace("a photo of a ", "… "), font=font, fill="#c9d1d9")
    for i, (name, images) in enumerate(rows):
        pen.text((8, top + i * side + 46), name, font=font, fill="#f0f3f6")
        for j in range(len(GRADES)):
            for k in range(shown):
                picture = to_picture(images[j * chosen.pictures + k])
                picture = picture.resize((side - 2, side - 2), Image.Resampling.LANCZOS)
                sheet.paste(picture, (left + (j * shown + k) * side, top + i * side))
    sheet.save(Path(ROOT / "docs" / "leak.jpg"), quality=86)


if __name__ == "__main__":
    sys.exit(main())
