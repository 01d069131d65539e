"""Charts as pictures: the loss of a training run, and scores between floor and ceiling."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..training.history import History

if TYPE_CHECKING:
    from ..attractor.propose import Proposal
    from .compare import Comparison
    from .people import People
    from .report import Report

_SUBJECT, _BACKGROUND, _HELD_OUT, _QUIET = "#1f6f8b", "#c9792b", "#b3345a", "#9aa3ab"


def loss_curve(history: History) -> Image.Image:
    """Loss by step: every step faintly, the fixed-noise losses as lines, the kept step marked."""
    return _picture(_loss_figure(history))


def loss_curve_svg(history: History) -> bytes:
    """The same as SVG."""
    return _svg(_loss_figure(history))


def score_chart(report: Report) -> Image.Image:
    """Similarity to train and held-out photos as bars, between the floor and the ceiling of each encoder and region."""
    return _picture(_score_figure(report))


def score_chart_svg(report: Report) -> bytes:
    """The same as SVG."""
    return _svg(_score_figure(report))


def comparison_chart(comparison: Comparison) -> Image.Image:
    """What each run is above the first, with its interval, a panel a measure."""
    return _picture(_comparison_figure(comparison))


def comparison_chart_svg(comparison: Comparison) -> bytes:
    """The same as SVG."""
    return _svg(_comparison_figure(comparison))


def break_even_svg(
    products: Sequence[int], shoots: Sequence[float], ours: Sequence[Sequence[float] | None], even: int | None,
    currency: str,
) -> bytes:  # fmt: skip
    """Cost over the number of products as SVG: of photo shoots, and ours with its low and high end where there are any.

    ours: the expected cost, the low end and the high end, each over `products`, or None.
    """
    figure, axes = _figure(7.2, 3.6)
    axes.plot(products, shoots, color=_BACKGROUND, linewidth=2, label="photo shoots")
    expected, low, high = ours
    if expected is not None:
        axes.plot(products, expected, color=_SUBJECT, linewidth=2, label="this, with a person looking at each picture")
    if low is not None:
        top = high if high is not None else [max(shoots)] * len(products)
        axes.fill_between(products, low, top, color=_SUBJECT, alpha=0.15, linewidth=0)
    if even is not None and even <= products[-1]:
        axes.axvline(even, color=_QUIET, linewidth=1, linestyle="--")
        axes.annotate(f" pays from {even} product{'' if even == 1 else 's'} on", (even, max(shoots) * 0.92), fontsize=8)
    axes.set_xlabel("products", fontsize=9)
    axes.set_ylabel(currency, fontsize=9)
    axes.set_xlim(0, products[-1])
    axes.set_ylim(0, max(shoots) * 1.05)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _svg(figure)


def people_chart(people: People) -> Image.Image:
    """Bradley-Terry strengths with their intervals."""
    figure, axes = _figure(6.4, 1.4 + 0.5 * len(people.strengths))
    for i, found in enumerate(reversed(people.strengths)):
        _whisker(axes, i, found.value, found.low, found.high, _SUBJECT)
    axes.set_yticks(range(len(people.strengths)), [found.method for found in reversed(people.strengths)])
    axes.axvline(0, color=_QUIET, linewidth=1, linestyle="--")
    axes.set_xlabel(f"preferred by people: Bradley-Terry strength, {people.votes} votes of {len(people.raters)} raters")
    axes.margins(y=0.3)
    return _picture(figure)


def _loss_figure(history: History) -> Any:
    figure, axes = _figure(7.2, 3.6)
    background = [p for p in history.losses if p[0] <= 0]
    subject = [p for p in history.losses if p[0] > 0]
    for points, colour in ((background, _BACKGROUND), (subject, _SUBJECT)):
        if points:
            axes.plot(*zip(*points, strict=True), ".", color=colour, markersize=2, alpha=0.25)
    for points, colour, label in (
        (history.background, _BACKGROUND, "background tokens, background pixels"),
        (history.train, _SUBJECT, "subject, train photos"),
        (history.held_out, _HELD_OUT, "subject, held-out photos"),
    ):
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, label=f"{label} (fixed noise)")
    if history.best_step:
        colour = _HELD_OUT if history.held_out else _QUIET
        axes.axvline(history.best_step, color=colour, linewidth=1, linestyle="--")
        place = (history.best_step, 1)
        axes.annotate(f" kept: {history.best_step}", place, xycoords=("data", "axes fraction"), va="top")
    axes.set_xlabel("step (before 0: background alone)" if background else "step")
    axes.set_ylabel("loss")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _score_figure(report: Report) -> Any:
    rows = [s for s in report.scores if s.kind == "image"][::-1]  # the first on top
    figure, axes = _figure(7.2, 1.6 + 1.0 * max(1, len(rows)))
    labels = []
    for i, score in enumerate(rows):
        axes.barh(i + 0.18, score.train, 0.32, color=_QUIET, label="to train photos" if i == 0 else None)
        axes.barh(i - 0.18, score.held_out, 0.32, color=_SUBJECT, label="to held-out photos" if i == 0 else None)
        for value, name in ((score.floor, "floor"), (score.ceiling, "ceiling")):
            if value is not None:
                axes.plot([value, value], [i - 0.42, i + 0.42], color=_HELD_OUT, linewidth=1.5)
                axes.annotate(name, (value, i + 0.44), ha="center", fontsize=8, color=_HELD_OUT)
        labels.append(score.stamp["encoder"] + ("" if score.region == "whole" else f"\n{score.region} only"))
    axes.set_yticks(range(len(rows)), labels)
    axes.set_xlabel("cosine similarity")
    axes.set_ylim(-0.7, max(1, len(rows)) - 0.1)
    if rows:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _comparison_figure(comparison: Comparison) -> Any:
    names, rows = comparison.names[1:], comparison.rows
    figure, axes = _figure(7.2, 1.2 + 0.34 * len(names) * max(1, len(rows)))
    labels, place = [], 0
    for row in reversed(rows):
        for name, found in reversed(list(zip(names, row.differences, strict=True))):
            colour = {"better": _SUBJECT, "worse": _HELD_OUT}.get(row.told(found), _QUIET)
            _whisker(axes, place, found.mean, found.low, found.high, colour)
            labels.append(f"{row.name}: {name}" if len(names) > 1 else row.name)
            place += 1
    axes.set_yticks(range(place), labels)
    axes.axvline(0, color=_QUIET, linewidth=1, linestyle="--")
    axes.set_xlabel(f"difference to {comparison.names[0]} (blue better, red worse)", fontsize=9)
    axes.margins(y=0.1)
    return figure


def _whisker(axes: Any, place: int, value: float, low: float | None, high: float | None, colour: str) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
    axes.plot([value], [place], "o", color=colour, markersize=5)


def proposal_chart(proposal: Proposal) -> Image.Image:
    """The pilots' errors on unseen pictures over the class word's: background against subject, each with its way."""
    figure, axes = _figure(6.4, 4.2)
    for pilot in proposal.pilots:
        chosen = (pilot.strength, pilot.feather) == (proposal.strength, proposal.feather)
        way = [(background, subject) for _, subject, background, _ in pilot.curve]
        colour = _SUBJECT if chosen else _QUIET
        axes.plot(*zip(*way, strict=True), color=colour, linewidth=2 if chosen else 1, marker="o", markersize=3)
        axes.annotate(f" {pilot.name}", way[-1], fontsize=8, color=colour, fontweight="bold" if chosen else "normal")
    axes.axvline(1, color=_BACKGROUND, linewidth=1, linestyle="--")
    axes.axhline(1, color=_BACKGROUND, linewidth=1, linestyle="--")
    axes.set_xlabel("error on other backgrounds (1: class word; more: the old one is expected there)", fontsize=8)
    axes.set_ylabel("error on the subject", fontsize=8)
    axes.margins(x=0.2)
    axes.set_title(f"compared on {proposal.unseen}", fontsize=9)
    return _picture(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Any) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "attractor"}):  # the same chart gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _picture(figure: Any) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
