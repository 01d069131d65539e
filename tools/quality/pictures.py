"""The two pictures of the benchmark: subject fidelity against leak, and the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .methods import Method
from .runs import Job, pictures_of

_SIDE, _LEFT, _TOP = 72, 210, 58
_PROMPTS = (0, 1, 3, 8, 9, 17)  # three spelt out, two half named, one that says nothing


def frontier(path: Path, figures: dict[str, float], settings: Sequence[str], methods: Sequence[Method]) -> None:
    """Leak on the x axis, subject fidelity on the y axis, with 95% intervals, one panel a setting."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shown, axes = plt.subplots(1, len(settings), figsize=(6.4 * len(settings), 4.8), squeeze=False, sharey=True)
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for ax, setting in zip(axes[0], settings, strict=True):
        for i, method in enumerate(methods):
            name = f"{setting}.{method.name}"
            if f"{name}.leak" not in figures:
                continue
            x, y = figures[f"{name}.leak"], figures[f"{name}.subject"]
            spread = [[[v - figures[f"{name}.{m}_low"]], [figures[f"{name}.{m}_high"] - v]]
                      for v, m in ((x, "leak"), (y, "subject"))]  # fmt: skip
            mark, colour = ("*", "black") if method.name == "ours" else ("o", colours[i % 10])
            ax.errorbar(x, y, xerr=np.abs(spread[0]), yerr=np.abs(spread[1]), fmt=mark, color=colour,
                        markersize=13 if mark == "*" else 7, capsize=3, lw=1.2, label=method.about)  # fmt: skip
        ax.axvline(0, color="0.8", lw=1, zorder=0)
        ax.set_title(setting.replace("_", " "))
        ax.set_xlabel("leak (shift toward the training background, 0 = none)")
        ax.grid(color="0.92")
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    axes[0][0].set_ylabel("subject fidelity (share of factors right)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    shown.legend(handles, labels, loc="lower center", ncol=4, fontsize=8, frameon=False)
    shown.tight_layout(rect=(0, 0.1, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.savefig(path, dpi=110)
    plt.close(shown)


def sheet(path: Path, jobs: dict[str, list[Job]], methods: Sequence[Method], subjects: int = 2) -> None:
    """Rows of methods, columns of prompts, for the first subjects, first seed; training photos on top."""
    seeds = {job.seed for job in jobs[methods[-1].name]}
    subjects = min(subjects, len({job.case for job in jobs[methods[-1].name]}))
    first = {m.name: [j for j in jobs[m.name] if j.seed == min(seeds)][:subjects] for m in methods}
    columns = len(_PROMPTS)
    block = columns * _SIDE + 14
    canvas = Image.new("RGB", (_LEFT + block * subjects, _TOP + _SIDE * (len(methods) + 1)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    small = ImageFont.load_default(size=10)
    for s in range(subjects):
        case = first[methods[-1].name][s].case
        x0 = _LEFT + s * block
        for k, photo in enumerate(case.photos[0][:columns]):
            canvas.paste(_scaled(photo.image), (x0 + k * _SIDE, _TOP))
        for k, index in enumerate(_PROMPTS):
            words = case.prompts[index].text.replace("a photo of a <subject>", "").replace("background", "").strip()
            for line, word in enumerate((words or "(not named)").split()[:4]):
                pen.text((x0 + k * _SIDE + 3, 2 + line * 13), word, font=small, fill="#333")
    pen.text((6, _TOP + 28), "training photos", font=font, fill="black")
    for i, method in enumerate(methods):
        y = _TOP + (i + 1) * _SIDE
        pen.text((6, y + 28), method.about, font=small, fill="black")
        for s, job in enumerate(first[method.name]):
            pictures = pictures_of(job)
            for k, index in enumerate(_PROMPTS):
                canvas.paste(_scaled(pictures[index, 0]), (_LEFT + s * block + k * _SIDE, y))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, quality=88)


def _scaled(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture).resize((_SIDE - 2, _SIDE - 2), Image.Resampling.LANCZOS)
