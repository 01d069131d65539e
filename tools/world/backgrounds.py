"""Six kinds of background, each in any of the ten colours."""

import numpy as np

from .palette import mix, rgb

BACKGROUNDS = ("plain", "gradient", "room", "wooden", "tile", "curtain")


def background(kind: str, colour: str, shift: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """Paint a background, float32 [side, side, 3] in [0, 1].

    `shift` in [-1, 1] moves the seams of wood, tiles and folds a little; `rng` gives the grain.
    """
    base = rgb(colour)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.clip(_PAINTERS[kind](base, axis, shift, rng), 0.0, 1.0)


def _plain(base: np.ndarray, axis: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    fall = 1.0 - 0.10 * (axis - 0.5) ** 2
    return (fall[:, None] * fall[None, :])[..., None] * base


def _gradient(base: np.ndarray, axis: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    top, bottom = mix(base, 1.0, 0.70), base * 0.80
    ramp = np.clip(axis + 0.08 * shift, 0.0, 1.0)[:, None]
    column = top * (1.0 - ramp) + bottom * ramp
    return np.broadcast_to(column[:, None, :], (len(axis), len(axis), 3))


def _room(base: np.ndarray, axis: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    edge = 0.64 + 0.04 * shift
    column = np.where((axis < edge)[:, None], base, mix(base, 0.0, 0.45) + 0.06)
    skirting = (np.abs(axis - edge) < 0.018)[:, None]
    column = np.where(skirting, mix(base, 1.0, 0.75) * 0.92, column)
    return np.broadcast_to(column[:, None, :], (len(axis), len(axis), 3))


def _wooden(base: np.ndarray, axis: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    side, planks = len(axis), 5
    place = (axis + 0.03 * shift + 0.04) * planks
    row, inside = np.floor(place).astype(int), place % 1.0
    tone = np.where(row % 2 == 0, 1.06, 0.86).astype(np.float32)
    seam = np.abs(inside - 0.5) > 0.44
    grain = np.repeat(rng.normal(0.0, 0.035, side // 2 + 1), 2)[:side].astype(np.float32)
    column = (tone + grain) * np.where(seam, 0.50, 1.0)
    wave = 1.0 + 0.05 * np.sin(2 * np.pi * (axis[None, :] * 1.5 + row[:, None] * 0.37))
    picture = (column[:, None] * wave)[..., None] * base + 0.035
    return picture.astype(np.float32)


def _tiled(base: np.ndarray, axis: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    place = ((axis + 0.03 * shift + 0.03) * 4) % 1.0
    line = np.abs(place - 0.5) > 0.445
    joint = mix(base, 1.0, 0.72) if base.mean() < 0.8 else base * 0.62
    bevel = (1.04 - 0.12 * place)[:, None] * np.ones_like(axis)[None, :]
    grid = (line[:, None] | line[None, :])[..., None]
    return np.where(grid, joint, bevel[..., None] * base)


def _curtain(base: np.ndarray, axis: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * (axis + 0.03 * shift) * 6
    fold = 0.80 + 0.28 * np.sin(phase + 0.6 * np.sin(phase))
    row = fold[:, None] * base + 0.05 + 0.05 * np.maximum(0, np.sin(phase))[:, None]
    return np.broadcast_to(row[None, :, :], (len(axis), len(axis), 3))


_PAINTERS = {
    "plain": _plain, "gradient": _gradient, "room": _room,
    "wooden": _wooden, "tile": _tiled, "curtain": _curtain,
}
