"""What the base checkpoint paints when it is asked in words, read by the judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..judge import READS, Judge, Readings, truth
from ..world import Scene, caption, sample_scene

SAMPLER = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64}


@dataclass(frozen=True)
class Base:
    """Pictures [N, 3, 64, 64] of scenes asked for in full, and what the judge reads."""

    scenes: list[Scene]
    images: torch.Tensor
    readings: Readings

    def right(self, factor: str) -> np.ndarray:
        """Where the factor is read as it was asked for, bool [N]."""
        asked = [truth(scene)[factor] for scene in self.scenes]
        return np.asarray(self.readings.names(factor)) == np.asarray(asked)

    def figures(self) -> dict[str, float]:
        """Shares of pictures: background (kind and colour), kind of item, both colours of the item, pattern.

        colours_ok: the two colours that were asked for are the two that are read; colours_in_place: each in its place
        too, which checks and stripes hardly show.
        """
        right = {name: self.right(name) for name in READS if not name.startswith("badge")}
        return {
            "background_ok": float((right["background"] & right["background_colour"]).mean()),
            "background_kind_ok": float(right["background"].mean()),
            "background_colour_ok": float(right["background_colour"].mean()),
            "kind_ok": float(right["kind"].mean()),
            "colours_ok": float(np.mean([{a, b} == {s.item.colour, s.item.colour2} for a, b, s in zip(
                self.readings.names("colour"), self.readings.names("colour2"), self.scenes, strict=True)])),
            "colours_in_place": float((right["colour"] & right["colour2"]).mean()),
            "colour_ok": float(right["colour"].mean()),
            "colour2_ok": float(right["colour2"].mean()),
            "pattern_ok": float(right["pattern"].mean()),
        }


def paint(models: tuple[Any, Any, Any], judge: Judge, count: int, seed: int, sampler: dict | None = None) -> Base:
    """Draw `count` scenes of pre-training's own kind, ask for each in full words, paint one picture each."""
    from ...nodes.host.sampling import SamplerSettings, sample_grid

    rng = np.random.default_rng((seed, 77))
    scenes = [sample_scene(rng) for _ in range(count)]
    settings = SamplerSettings(**(sampler or SAMPLER))
    parts = [sample_grid(*models, None, "", [caption(scene, full=True)], [seed + i], settings, 1, False).images
             for i, scene in enumerate(scenes)]  # fmt: skip
    images = torch.cat(parts)
    return Base(scenes, images, judge.read(images))


def sheet(pictures: np.ndarray, columns: int, scale: int = 2) -> Image.Image:
    """Lay pictures uint8 [N, side, side, 3] out in rows with a thin gap."""
    rows, side = -(-len(pictures) // columns), pictures.shape[1]
    out = np.full((rows * (side + 2), columns * (side + 2), 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (side + 2), i % columns * (side + 2)
        out[y : y + side, x : x + side] = picture
    return Image.fromarray(out).resize((out.shape[1] * scale, out.shape[0] * scale), Image.Resampling.NEAREST)


def main() -> None:
    """Paint, read and print; the sheet goes to .cache/base.png with what was asked and read in a list."""
    import argparse

    from ..checkpoints import import_host
    from ..host import ROOT
    from ..judge import load

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cfg", type=float, default=SAMPLER["cfg"])
    parser.add_argument("--steps", type=int, default=SAMPLER["steps"])
    parser.add_argument("--sampler", default=SAMPLER["sampler_name"])
    chosen = parser.parse_args()
    import_host()
    from ...nodes.host import demo

    how = {**SAMPLER, "cfg": chosen.cfg, "steps": chosen.steps, "sampler_name": chosen.sampler}
    with torch.inference_mode():
        base = paint(demo.load(), load(), chosen.count, chosen.seed, how)
    for name, value in base.figures().items():
        print(f"{name:22s} {value:.3f}")
    pictures = (base.images.movedim(1, -1) * 255 + 0.5).byte().numpy()
    (ROOT / ".cache").mkdir(exist_ok=True)
    sheet(pictures, 10).save(ROOT / ".cache" / "base.png")
    read = {name: base.readings.names(name) for name in READS}
    for i, scene in enumerate(base.scenes):
        asked = truth(scene)
        wrong = [f"{n}: {asked[n]} read as {read[n][i]}" for n in READS if not n.startswith("badge")
                 and asked[n] != read[n][i]]  # fmt: skip
        print(f"{i // 10 + 1}.{i % 10 + 1} {caption(scene, full=True)}  {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
