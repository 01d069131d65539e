"""What masks cost: saliency beside plain onnxruntime in one run, and the U-Net forwards that attention takes."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
import torch

from ...attractor.attention import NOISE
from ...training.photos import read_folder
from ..models import fetch_u2netp
from .subjects import DATA, saliency


def speed(rounds: int = 3) -> dict[str, float]:
    """Seconds a photo, `rounds` times over the dog's photos in turns, the median; attention's forwards a photo."""
    photos = [photo.pixels for photo in read_folder(DATA / "dreambooth" / "dog", "dog").photos]
    ours, plain = saliency(), onnxruntime.InferenceSession(str(fetch_u2netp()), providers=["CPUExecutionProvider"])
    name, blank = plain.get_inputs()[0].name, np.zeros((1, 3, 320, 320), dtype=np.float32)
    taken: dict[str, list[float]] = {"ours": [], "plain": []}
    plain.run(None, {name: blank})
    ours.raw(photos[0])
    for photo in photos * rounds:
        began = time.perf_counter()
        ours.raw(photo)
        middle = time.perf_counter()
        plain.run(None, {name: blank})
        taken["ours"].append(middle - began)
        taken["plain"].append(time.perf_counter() - middle)
    ours_s, plain_s = (float(np.median(taken[k])) for k in ("ours", "plain"))
    return {
        "saliency.seconds": ours_s, "saliency.plain_seconds": plain_s, "saliency.over_plain": ours_s / plain_s,
        "attention.forwards_a_photo": len(NOISE), "threads": torch.get_num_threads(),
    }  # fmt: skip
