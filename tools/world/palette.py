"""The ten colours of the world: each name is one token of the CLIP tokenizer."""

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 38, 40),
    "orange": (242, 133, 28),
    "yellow": (246, 214, 56),
    "green": (46, 148, 64),
    "blue": (42, 82, 202),
    "purple": (124, 56, 166),
    "pink": (246, 150, 190),
    "brown": (116, 72, 42),
    "black": (34, 34, 38),
    "white": (240, 240, 236),
}
COLOUR_NAMES = tuple(COLOURS)


def rgb(name: str) -> np.ndarray:
    """The colour's sRGB value as float32 [3] in [0, 1]."""
    return np.asarray(COLOURS[name], dtype=np.float32) / 255.0


def mix(a: np.ndarray, b: np.ndarray | float, share: float) -> np.ndarray:
    """Blend `share` of b into a, channel by channel."""
    return a * (1.0 - share) + np.asarray(b, dtype=np.float32) * share
