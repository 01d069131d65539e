"""A verdict on each mask, in words and as data, with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

GOOD, EMPTY = "good", "no subject found"
ADVICE = {
    EMPTY: "paint a mask by hand and connect it (back end 'external')",
    "subject too small": "views go nearer by the mask, so check the overlay; of a photo with few pixels, take a closer "
    "one",
    "covers nearly everything": "right for a close-up; otherwise paint a mask (back end 'external')",
    "looks inverted": "white is the subject: invert the mask, unless the subject really is the frame",
    "touches the border": "right when the photo cuts the subject off; otherwise check the overlay",
    "several objects": "say which one with a click ('x, y' in clicks), or crop the photo",
    "disagrees with the other photos": "what is masked looks like the other photos' background: check the overlay, or "
    "click on the subject",
    "uncertain": "check the overlay; a click on the subject, a sharper photo or a painted mask helps",
    GOOD: "",
}
_LEAST = 0.0035  # share of the frame below which there is nothing
_PART = 0.03  # size of a second part, of the largest, that may be an object of its own,
_SEEN = 0.002  # and of the frame
_SURE = 0.6  # agreement below which a mask is uncertain
_FOREIGN, _KNOWN = 0.4, 0.6  # what is masked resembles the others' background so much more than their subject


@dataclass(frozen=True)
class Evidence:
    """What speaks for a mask. confidence: how far back ends and views of the photo agree, in [0, 1]; .6 is the least
    that is enough.

    recurs: how much what is masked looks like what is masked in the other photos, against their background, in [0, 1],
    with `known`, how much it looks like either; None for a single photo. sources: the back ends that took part.
    left_out: of the size of what is masked, how much was taken away because the frame cuts it off.
    """

    confidence: float = 1.0
    recurs: float | None = None
    known: float = 0.0
    sources: tuple[str, ...] = ()
    left_out: float = 0.0

    def as_dict(self) -> dict:
        """For JSON."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def is_empty(mask: Tensor) -> bool:
    """Whether a mask [H, W] shows next to nothing."""
    return float((mask > 0.5).float().mean()) < _LEAST


def verdict(mask: Tensor, evidence: Evidence | None = None, unfeathered: Tensor | None = None) -> str:
    """What a mask [H, W] looks like: "good", or what is doubtful about it, a key of ADVICE.

    unfeathered: the same before it was softened on purpose, by which its own edge is judged.
    """
    evidence = evidence or Evidence()
    inside = mask > 0.5
    share = float(inside.float().mean())
    if is_empty(mask):
        return EMPTY
    if share < 0.015:
        return "subject too small"
    border = float(torch.cat([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).float().mean())
    height, width = inside.shape
    middle = float(inside[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None].float().mean())
    if border > 0.9 and middle < 0.5 and share > 0.3:
        return "looks inverted"
    if share > 0.9:
        return "covers nearly everything"
    if border > 0.35:
        return "touches the border"
    largest, second = _two_largest(inside)
    if second > max(_PART * largest, _SEEN * inside.numel()):
        return "several objects"
    if evidence.recurs is not None and evidence.recurs < _FOREIGN and evidence.known > _KNOWN:
        return "disagrees with the other photos"
    edge = mask if unfeathered is None else unfeathered
    soft = float(((edge - 0.5).abs() < 0.25).float().mean())
    if evidence.confidence < _SURE or soft > max(0.05, 0.5 * share):
        return "uncertain"
    return GOOD


def verdict_text(
    names: Sequence[str], verdicts: Sequence[str], masks: Sequence[Tensor], notes: Sequence[str] = ()
) -> str:
    """One line a photo: its verdict, how much of the frame the subject covers, and what to do; then the notes."""
    lines = []
    for name, found, mask in zip(names, verdicts, masks, strict=True):
        advice = f" - {ADVICE[found]}" if ADVICE.get(found) else ""
        lines.append(f"{name}: {found} (subject covers {float(mask.mean()):.0%}){advice}")
    return "\n".join([*lines, *notes])


def left_out(evidence: Mapping[str, Evidence | None]) -> list[str]:
    """A line for each photo, by name, of whose mask something was taken away."""
    return [
        f"{name}: what the frame cuts off was left out ({one.left_out:.0%} of the subject's size); if it belongs to "
        "the subject, click on it or paint a mask"
        for name, one in evidence.items()
        if one and one.left_out
    ]


def _two_largest(inside: Tensor) -> tuple[int, int]:
    """Sizes of the two largest connected parts, in pixels."""
    labels = np.zeros(inside.shape, dtype=np.int32)
    label(inside.numpy(), output=labels)
    sizes = sorted((int(n) for n in np.bincount(labels.ravel())[1:]), reverse=True)
    return (*sizes, 0, 0)[0], (*sizes, 0, 0)[1]
