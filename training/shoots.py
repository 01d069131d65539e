"""Which photos of a set share a shoot: the same background in the same light, whatever the subject does in front."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .photos import Photo, SubjectSet

_SIDE = 96  # pixels at which backgrounds are compared
_BINS = 8  # of each of the three channels
_APART = 0.35  # Hellinger distance at which two backgrounds are not of one shoot


def shoots(subject: SubjectSet) -> list[int]:
    """The number of each photo's shoot, counted from 0 in the order of the photos.

    Photos whose backgrounds, by their masks, hold much the same colours are put together: average-linkage clustering of
    the Hellinger distance between smoothed colour histograms. Without masks all of a photo counts.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    if len(subject) < 2:
        return [0] * len(subject)
    histograms = np.stack([_histogram(photo) for photo in subject.photos])
    distances = pdist(np.sqrt(histograms)) / np.sqrt(2)
    labels = fcluster(linkage(distances, "average"), _APART, "distance")
    order = {label: number for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    return [order[label] for label in labels.tolist()]


def _histogram(photo: Photo) -> np.ndarray:
    """Share of the background in each of 8 x 8 x 8 colours, each pixel spread over its neighbouring bins: [512]."""
    outside = torch.ones(photo.pixels.shape[-2:]) if photo.mask is None else 1 - photo.mask
    stack = F.interpolate(torch.cat([photo.pixels, outside[None]])[None], (_SIDE, _SIDE), mode="area")[0]
    pixels, weight = stack[:3].flatten(1).T.double().numpy(), stack[3].flatten().double().numpy() + 1e-9
    counts, _ = np.histogramdd(pixels, bins=_BINS, range=[(0, 1)] * 3, weights=weight)
    for axis in range(3):
        counts = 0.5 * counts + 0.25 * (_shifted(counts, 1, axis) + _shifted(counts, -1, axis))
    return (counts / counts.sum()).ravel()


def _shifted(counts: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Neighbouring bins; those at the end are their own neighbours."""
    index = np.clip(np.arange(counts.shape[axis]) + by, 0, counts.shape[axis] - 1)
    return np.take(counts, index, axis)
