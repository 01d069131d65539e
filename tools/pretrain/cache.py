"""Render the training pictures and their masks once, in shards, on all cores.

Picture i of a cache is the scene drawn from `default_rng((seed, i))`, so shards hold pixels only.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ..world import Scene, render, sample_scene

SHARD = 4000
Draw = Callable[[int, int], Scene]


def scene_of(seed: int, index: int) -> Scene:
    """The scene of picture `index` of the cache with this seed."""
    return sample_scene(np.random.default_rng((seed, index)))


def shard_path(folder: Path, shard: int, what: str = "pictures") -> Path:
    """Where a shard of "pictures" or "masks" lies."""
    return folder / what / f"{shard:04d}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.rename(path)


def make_shard(folder: Path, seed: int, shard: int, draw: Draw = scene_of, first: int = 0) -> None:
    """Render one shard, uint8 [SHARD, 64, 64, 3] and masks uint8 [SHARD, 64, 64], unless it is there."""
    paths = shard_path(folder, shard), shard_path(folder, shard, "masks")
    if all(path.exists() for path in paths):
        return
    start = first + shard * SHARD
    pictures, masks = zip(*(render(draw(seed, start + i)) for i in range(SHARD)), strict=True)
    _save(paths[0], np.stack(pictures))
    _save(paths[1], (np.stack(masks) * 255 + 0.5).astype(np.uint8))


def load_pictures(folder: Path, limit: int | None = None, what: str = "pictures") -> np.ndarray:
    """All shards that are there, joined in order, uint8 [N, H, W, 3] ([N, H, W] of masks); stops at a gap."""
    shards = []
    while shard_path(folder, len(shards), what).exists() and (limit is None or len(shards) * SHARD < limit):
        shards.append(np.load(shard_path(folder, len(shards), what)))
    if not shards:
        raise FileNotFoundError(f"no {what} in {folder}: run the cache stage first")
    return np.concatenate(shards)[:limit]


def build(folder: Path, pictures: int, seed: int, workers: int, draw: Draw = scene_of, first: int = 0) -> None:
    """Render shards until there are at least `pictures`; picture i shows `draw(seed, first + i)`."""
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(make_shard, folder, seed, shard, draw, first) for shard in range(-(-pictures // SHARD))]
        for job in jobs:
            job.result()


def main(argv: list[str] | None = None) -> None:
    """Command line of the cache stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--pictures", type=int, default=56000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    build(args.folder, args.pictures, args.seed, args.workers)


if __name__ == "__main__":
    main()
