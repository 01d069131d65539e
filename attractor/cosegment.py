"""Joint segmentation of a set of photos: what has the subject's colours in all of them, cut out along edges.

A coarse map of where the subject is becomes a mask in turns, as GrabCut does it (Rother et al., SIGGRAPH 2004): from
the map, how often each colour occurs on the subject and beside it; from these and the map, how likely each pixel is the
subject's; then a random walk with these likelihoods as priors (Grady, "Multilabel random walker image segmentation
using prior models", CVPR 2005), which stops at edges. The subject's colours are shared by the photos of the set
(cosegmentation, Rother et al., CVPR 2006): a colour that recurs is the subject's, one that does not is background's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sparse
from scipy.cluster.vq import kmeans2, vq
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import spsolve
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu

COLOURS = 24  # words of the set's palette
_TURNS = 3
_PRIOR_WEIGHT = (1.0, 0.7, 0.4)  # of the map in each turn: in the end the colours and edges say more
_OWN = 0.3  # part of a photo's own colours in the subject's, beside the set's
_ODDS = 3.0  # largest evidence that a colour gives, in log odds
_RARE = 0.003  # share below which a colour says nothing
_PULL = 0.03  # how strongly the random walk is pulled to its priors
_CONTRAST = 4.0  # how fast neighbours part with the difference of their colours
_STEEP = 3.0  # how much more decided a mask is than the random walk
_SAMPLE = 20_000  # pixels that the palette is made from


class Cosegmentation:
    """The palette, the edges and the colour words of a set of photos, from which any maps can be made into masks.

    photos: float32 [h, w, 3] in [0, 1], at most a few hundred pixels a side; sizes may differ. edges: False where only
    the colours are asked for.
    """

    def __init__(self, photos: Sequence[np.ndarray], seed: int = 0, edges: bool = True):
        labs = [rgb2lab(gaussian_filter(photo, (0.5, 0.5, 0))) for photo in photos]
        pixels = np.concatenate([lab.reshape(-1, 3) for lab in labs])
        rng = np.random.default_rng(seed)
        sample = pixels[rng.permutation(len(pixels))[:_SAMPLE]]
        distinct = np.unique(sample.round(1), axis=0)
        start = distinct[rng.permutation(len(distinct))[:COLOURS]]
        palette = np.asarray(kmeans2(sample, start, minit="matrix", missing="warn")[0])
        self.size = len(palette)
        self._words = [vq(lab.reshape(-1, 3), palette)[0] for lab in labs]
        self._edges = [_laplacian(lab) for lab in labs] if edges else []

    def colours(self, index: int, weight: np.ndarray) -> np.ndarray:
        """How often each colour of the palette occurs in photo `index` under a weight [h, w]: sums to 1."""
        counted = np.bincount(self._words[index], weight.ravel(), self.size)
        return counted / max(counted.sum(), 1e-9)

    def masks(
        self, maps: Sequence[np.ndarray], colour_weight: float, trust: Sequence[float] | None = None,
        pulse: Callable[[], None] = lambda: None,
    ) -> list[np.ndarray]:  # fmt: skip
        """Masks [h, w] in [0, 1], one a photo, from maps [h, w] in [0, 1] of where the subject is.

        colour_weight: how much the colours say beside the map; more, the coarser the map. trust: of each photo's map,
        in the colours that the set shares (all alike without it). pulse: is called for each photo and turn; may raise.
        """
        trust = [1.0] * len(maps) if trust is None else trust
        prior = [_log_odds(m).ravel() for m in maps]
        found = [np.asarray(m, dtype=np.float64).ravel() for m in maps]
        for turn in range(_TURNS):
            subject = [self.colours(i, mask) for i, mask in enumerate(found)]
            shared = np.average(subject, axis=0, weights=np.maximum(trust, 1e-6))
            for i, mask in enumerate(found):
                pulse()
                own = _OWN * subject[i] + (1 - _OWN) * shared
                evidence = np.log((own + _RARE) / (self.colours(i, 1 - mask) + _RARE)).clip(-_ODDS, _ODDS)
                odds = _PRIOR_WEIGHT[turn] * prior[i] + colour_weight * evidence[self._words[i]]
                found[i] = self._walk(i, 1 / (1 + np.exp(-odds)))
        return [_centred(mask.reshape(m.shape)) for mask, m in zip(found, maps, strict=True)]

    def _walk(self, index: int, likely: np.ndarray) -> np.ndarray:
        edges = self._edges[index]
        matrix = (edges + _PULL * sparse.identity(likely.size, format="csr")).tocsc()
        return np.clip(np.asarray(spsolve(matrix, _PULL * likely)), 0, 1)


def spread(map_: np.ndarray) -> np.ndarray:
    """A map stretched to [0, 1] between its 5th and 98th percentile."""
    low, high = np.percentile(map_, (5, 98))
    return np.clip((map_ - low) / max(high - low, 1e-6), 0, 1)


def _log_odds(map_: np.ndarray) -> np.ndarray:
    clipped = np.clip(map_, 0.02, 0.98)
    return np.log(clipped / (1 - clipped))


def _centred(mask: np.ndarray) -> np.ndarray:
    """The mask bent so that one half is where its two modes part best (Otsu), and made steeper there."""
    if np.ptp(mask) < 1e-3:
        return mask
    middle = float(np.clip(threshold_otsu(mask), 0.25, 0.75))
    bent = np.where(mask < middle, mask / middle / 2, 0.5 + (mask - middle) / (1 - middle) / 2)
    return np.clip(0.5 + _STEEP * (bent - 0.5), 0, 1)


def _laplacian(lab: np.ndarray) -> sparse.csr_matrix:
    """Laplacian of the grid of pixels [h, w, 3] with eight neighbours, weighted by how alike their colours are."""
    height, width = lab.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    everything, first, last = slice(None), slice(None, -1), slice(1, None)
    pairs = (((everything, first), (everything, last), 1.0), ((first, everything), (last, everything), 1.0),
             ((first, first), (last, last), 0.7), ((first, last), (last, first), 0.7))  # fmt: skip
    apart = [np.square(lab[a] - lab[b]).sum(-1).ravel() for a, b, _ in pairs]
    scale = np.mean(np.concatenate(apart)) + 1e-6
    rows = np.concatenate([index[a].ravel() for a, _, _ in pairs])
    columns = np.concatenate([index[b].ravel() for _, b, _ in pairs])
    weights = np.concatenate([near * (np.exp(-_CONTRAST * d / scale) + 1e-3)
                              for d, (_, _, near) in zip(apart, pairs, strict=True)])  # fmt: skip
    shape = (height * width,) * 2
    graph = sparse.coo_matrix((weights, (rows, columns)), shape=shape).tocsr()
    graph = graph + graph.T
    return (sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph).tocsr()
