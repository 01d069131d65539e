"""Which of several objects is meant: points and boxes that a user gives, and what the saliency model sees there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from .errors import AttractorError

_WINDOWS = (0.2, 0.27, 0.35, 0.45, 0.6, 0.8, 1.0)  # sides of the windows around a point, of the photo's longer side
_AROUND_BOX = (1.15, 1.5, 2.2)  # sides of the windows around a box, of the box's longer side
_AGAIN = (1.3, 1.8)  # and around what was found in them
_CUT = 0.2  # part of a window's own border that an object may cover before it counts as cut off
_CUT_WORTH = 0.5  # what such a view counts
_CHANCE = 0.8  # agreement of the better half of the views that says nothing
_FILLS = 0.25  # part of its box that an object fills at least
_NEAR = 0.12  # of the longer side: what is guessed about a point where nothing is found


@dataclass(frozen=True)
class Click:
    """A point (x, y) on the object, in fractions of the photo, and a box (x0, y0, x1, y1) around it if one is given."""

    x: float
    y: float
    box: tuple[float, float, float, float] | None = None


def parse_clicks(text: str, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> dict[str, Click]:
    """Clicks by photo name from lines "x, y" or "x0, y0, x1, y1", with "name:" before it or for the photos in turn.

    Numbers of at most 1 are fractions of the photo, others pixels of it. names, sizes: of the photos, (width, height).
    Raises AttractorError, naming the line, for what is no point or box of a photo.
    """
    found: dict[str, Click] = {}
    lines = [line.strip() for line in re.split(r"[\n;]", text) if line.strip()]
    turn = iter(names)
    for line in lines:
        name, colon, numbers = line.rpartition(":")
        name = name.strip() if colon else next(turn, None)
        if name is None:
            raise AttractorError(f"clicks: {line!r} is one line too many for {len(names)} photos.")
        if name not in names:
            stems = [n for n in names if n.rpartition(".")[0] == name]
            if len(stems) != 1:
                raise AttractorError(
                    f"clicks: {line!r} is for a photo that is not in the set ({', '.join(names)}). Write "
                    "'photo name: x, y', or one line for each photo in order."
                )
            name = stems[0]
        found[name] = _click(line, numbers, sizes[list(names).index(name)])
    return found


def _click(line: str, numbers: str, size: tuple[int, int]) -> Click:
    try:
        values = [float(v) for v in re.split(r"[,\s]+", numbers.strip())]
    except ValueError:
        values = []
    if len(values) not in (2, 4) or not all(map(math.isfinite, values)):
        raise AttractorError(f"clicks: {line!r} is neither a point 'x, y' nor a box 'x0, y0, x1, y1'.")
    if max(values) > 1:
        values = [v / size[i % 2] for i, v in enumerate(values)]
    if min(values) < 0 or max(values) > 1:
        raise AttractorError(f"clicks: {line!r} lies outside its photo of {size[0]} x {size[1]} pixels.")
    if len(values) == 2:
        return Click(values[0], values[1])
    x0, y0, x1, y1 = values
    if x1 <= x0 or y1 <= y0:
        raise AttractorError(f"clicks: the box {line!r} is empty: give its left, top, right and bottom.")
    return Click((x0 + x1) / 2, (y0 + y1) / 2, (x0, y0, x1, y1))


def click_on(mark: Tensor) -> Click | None:
    """The click that a painted mark [h, w] stands for: its innermost point; None where nothing is painted."""
    inside = np.asarray(distance_transform_edt(np.pad(mark.numpy() > 0.5, 1)))[1:-1, 1:-1]
    if inside.max() <= 0:
        return None
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return Click((int(x) + 0.5) / mark.shape[1], (int(y) + 0.5) / mark.shape[0])


def component_at(mask: np.ndarray, click: Click) -> np.ndarray:
    """The connected part of mask > 0.5 under a click, bool [h, w]; for a box the largest part in it."""
    labels, count = parts_of(mask)
    height, width = mask.shape
    row, column = min(int(click.y * height), height - 1), min(int(click.x * width), width - 1)
    chosen = labels[row, column]
    if click.box is not None and count:
        x0, y0, x1, y1 = click.box
        inside = labels[int(y0 * height) : int(y1 * height) + 1, int(x0 * width) : int(x1 * width) + 1]
        sizes = np.bincount(inside.ravel(), minlength=count + 1)
        chosen = int(sizes[1:].argmax()) + 1 if sizes[1:].any() else 0
    return labels == chosen if chosen else np.zeros_like(labels, dtype=bool)


def parts_of(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected parts of mask > 0.5, numbered from 1, int32 [h, w], and how many there are."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    label(mask > 0.5, output=labels)
    return labels, int(labels.max())


def at_click(pixels: Tensor, click: Click, see: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, float]:
    """Where the clicked object is: a map [H, W] in [0, 1], and how sure that is, in [0, 1], by how far its views agree.

    see: saliency [h, w] of a picture [3, h, w]. What stands out depends on the frame: the photo is looked at through
    windows of several sizes around the click, then around what most of them agree on.
    """
    height, width = pixels.shape[-2:]
    longer = max(height, width)
    if click.box is None:
        sides = [share * longer for share in _WINDOWS]
    else:
        x0, y0, x1, y1 = click.box
        sides = [share * max((x1 - x0) * width, (y1 - y0) * height) for share in _AROUND_BOX]
    seen = [_through(pixels, (click.y * height, click.x * width), side, click, see) for side in sides]
    middle = _most_agreed(seen)
    if middle is None:
        return guess_about(click, (height, width)), 0.0
    rows, columns = np.nonzero(middle)
    centre = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    seen += [_through(pixels, centre, share * extent, click, see) for share in _AGAIN]
    middle = _most_agreed(seen, middle)
    if click.box is not None and middle.sum() < _FILLS * _box_area(click) * height * width:
        return 0.1 + 0.6 * in_box(np.ones((height, width)), click), 0.0  # what stands out in the box is a part of it
    votes = [(worth * overlap(part, middle), part) for part, worth in seen]
    total = sum(vote for vote, _ in votes)
    map_ = sum(vote / total * part.astype(np.float64) for vote, part in votes)
    agreed = sorted((overlap(part, middle) for part, _ in seen if part is not middle), reverse=True)
    agreement = float(np.mean(agreed[: len(agreed) // 2]))
    return np.asarray(map_), max(0.0, (agreement - _CHANCE) / (1 - _CHANCE))


def guess_about(click: Click, size: tuple[int, int]) -> np.ndarray:
    """A map [h, w] of where something is of which nothing but the click is known. size: (height, width)."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    apart = np.hypot(rows - click.y * height, columns - click.x * width) / (max(size) * _NEAR)
    return np.exp(-np.square(apart) / 2)


def _box_area(click: Click) -> float:
    x0, y0, x1, y1 = click.box or (0.0, 0.0, 1.0, 1.0)
    return (x1 - x0) * (y1 - y0)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks, cut at one half."""
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / max(1, (a | b).sum()))


def _through(
    pixels: Tensor, centre: tuple[float, float], side: float, click: Click, see: Callable[[Tensor], Tensor]
) -> tuple[np.ndarray, float]:
    """What stands out under the click in a square window, [H, W] bool, and what this view is worth.

    A wide view is worth more than a narrow one, which sees parts; one that cuts the object off is worth less.
    """
    height, width = pixels.shape[-2:]
    tall, wide = (max(16, min(round(side), length)) for length in (height, width))
    top = int(np.clip(round(centre[0] - tall / 2), 0, max(0, height - tall)))
    left = int(np.clip(round(centre[1] - wide / 2), 0, max(0, width - wide)))
    window = pixels[:, top : top + tall, left : left + wide]
    bottom, right = top + window.shape[1], left + window.shape[2]
    full = np.zeros((height, width), dtype=np.float32)
    full[top:bottom, left:right] = see(window).numpy()
    part = component_at(in_box(full, click), click)
    worth = float(np.sqrt(min(side, max(height, width)) / max(height, width)))
    own = [line for at_photo, line in (
        (top == 0, part[top, left:right]), (bottom == height, part[bottom - 1, left:right]),
        (left == 0, part[top:bottom, left]), (right == width, part[top:bottom, right - 1]),
    ) if not at_photo]  # fmt: skip
    cut = bool(own) and float(np.concatenate(own).mean()) > _CUT
    return part, worth * (_CUT_WORTH if cut else 1.0)


def in_box(map_: np.ndarray, click: Click) -> np.ndarray:
    """The map, and nothing of it outside the box of a click that has one."""
    if click.box is None:
        return map_
    height, width = map_.shape
    x0, y0, x1, y1 = click.box
    kept = np.zeros_like(map_)
    rows, columns = slice(int(y0 * height), int(np.ceil(y1 * height))), slice(int(x0 * width), int(np.ceil(x1 * width)))
    kept[rows, columns] = map_[rows, columns]
    return kept


def _most_agreed(seen: Sequence[tuple[np.ndarray, float]], default: Any = None) -> Any:
    """The part that overlaps most with all others, each by its worth; the default where there are none."""
    found = [(part, worth) for part, worth in seen if part.any()]
    if not found:
        return default
    votes = [sum(worth * overlap(part, other) for other, worth in found) for part, _ in found]
    return found[int(np.argmax(votes))][0]
