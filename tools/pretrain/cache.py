"""Render the training pictures once, in shards, on all cores.

Picture i of a cache is the scene drawn from `default_rng((seed, i))`, so shards hold pixels only.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ..world import Scene, render, sample_scene

SHARD = 4000


def scene_of(seed: int, index: int) -> Scene:
    """The scene of picture `index` of the cache with this seed."""
    return sample_scene(np.random.default_rng((seed, index)))


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard of pictures lies."""
    return folder / "pictures" / f"{shard:04d}.npy"


def make_shard(folder: Path, seed: int, shard: int, size: int = 64) -> Path:
    """Render one shard, uint8 [SHARD, size, size, 3], unless it is there."""
    path = shard_path(folder, shard)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        first = shard * SHARD
        pictures = np.stack([render(scene_of(seed, first + i), size)[0] for i in range(SHARD)])
        part = path.with_suffix(".part.npy")
        np.save(part, pictures)
        part.rename(path)
    return path


def load_pictures(folder: Path, limit: int | None = None) -> np.ndarray:
    """All shards that are there, joined in order, uint8 [N, H, W, 3]; stops at the first gap."""
    shards = []
    while shard_path(folder, len(shards)).exists() and (limit is None or len(shards) * SHARD < limit):
        shards.append(np.load(shard_path(folder, len(shards))))
    if not shards:
        raise FileNotFoundError(f"no pictures in {folder}: run the cache stage first")
    return np.concatenate(shards)[:limit]


def build(folder: Path, pictures: int, seed: int, workers: int) -> None:
    """Render shards until there are at least `pictures`."""
    shards = -(-pictures // SHARD)
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(make_shard, [folder] * shards, [seed] * shards, range(shards)))


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
