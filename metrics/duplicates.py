"""Near-duplicates of a photo: mirrored, shifted, cropped, resized or recompressed copies of the same shot.

A perceptual hash alone misses shifted crops, and matching local features alone ties together different photos
of one flat label. So a pair counts as a duplicate when local features agree on one affine map *and* the
pictures, laid over one another by that map, are the same grey values over a good part of the frame.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial import ConvexHull, QhullError

from ..training.photos import Photo
from .candidates import candidates, mirror_descriptors

if TYPE_CHECKING:
    from skimage.transform import AffineTransform, SimilarityTransform


_MARGIN = 10  # pixels
_TRIALS, _AGREE = 400, 3.0  # of RANSAC; pixels


@dataclass(frozen=True)
class Thresholds:
    """When two photos count as one shot.

    side: longer side in pixels at which features are taken. inliers: matches that agree on one map.
    correlation: of grey values, and of edges and texture, where they overlap. overlap: the least part of the smaller
    frame that overlaps.
    hash_bits: perceptual-hash distance up to which pictures are compared as a whole, too; pictures without
    features always are. whole_correlation: of whole thumbnails, for that. marked_...: inliers, their share of the
    keypoints, their coverage of the frame and the overlap of the larger frame from which on a picture with lettering
    all over it is a copy, however badly the values correlate. shoot_inliers, shoot_coverage: agreement that is no copy
    and still shows the same scene.
    """

    side: int = 384
    inliers: int = 8
    correlation: float = 0.8
    overlap: float = 0.2
    hash_bits: int = 6
    whole_correlation: float = 0.985
    marked_inliers: int = 30
    marked_share: float = 0.33
    marked_coverage: float = 0.3
    marked_overlap: float = 0.93
    shoot_inliers: int = 20
    shoot_coverage: float = 0.25


@dataclass(frozen=True)
class Match:
    """Evidence about one pair: kind is "duplicate", "same_shoot" or "" (different photos)."""

    a: str
    b: str
    kind: str
    inliers: int
    correlation: float
    overlap: float
    coverage: float
    mirrored: bool
    hash_distance: int


@dataclass(frozen=True, eq=False)
class Features:
    """Grey picture uint8 [h, w] with SIFT keypoints (x, y) [n, 2] and descriptors [n, 128], strongest first."""

    pixels: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray
    mirror_of: Features | None = None

    @property
    def grey(self) -> np.ndarray:
        """In [0, 1]."""
        return self.pixels.astype(np.float32) / 255

    @property
    def details(self) -> np.ndarray:
        """Edges and texture without flat areas: two different drawings on white would agree on the white."""
        return _details(self) if self.mirror_of is None else self.mirror_of.details[:, ::-1]

    def mirrored(self) -> Features:
        """The mirror image's features, without looking at it: points and descriptors are turned round."""
        points = self.points.copy()
        points[:, 0] = self.pixels.shape[1] - 1 - points[:, 0]
        return Features(self.pixels[:, ::-1], points, mirror_descriptors(self.descriptors), self)


@lru_cache(maxsize=128)  # a photo is compared with many; of a large set not all fit
def _details(features: Features) -> np.ndarray:
    return gaussian_filter(features.grey, 1.5) - gaussian_filter(features.grey, 8)


def extract(photo: Photo, side: int, mirrored: bool = False) -> Features:
    """SIFT features of a photo, or of its mirror image, at `side` pixels on the longer side; the last are kept."""
    if mirrored:
        return extract(photo, side).mirrored()
    key = (photo.sha256, photo.size, side)
    with _LOCK:
        kept = _KEPT.get(key)
    if kept is None:
        kept = _features(_small(photo, side))
        with _LOCK:
            while len(_KEPT) >= _KEPT_FEATURES:
                _KEPT.pop(next(iter(_KEPT)))
            _KEPT[key] = kept
    return kept


def _small(photo: Photo, side: int) -> np.ndarray:
    array = (photo.pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    image = Image.fromarray(array).convert("L")
    scale = side / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _features(pixels: np.ndarray) -> Features:
    from skimage.feature import SIFT  # late: importing scikit-image takes a while

    pixels = np.ascontiguousarray(pixels)
    sift = SIFT(upsampling=1)
    try:
        sift.detect_and_extract(pixels.astype(np.float32) / 255)
    except RuntimeError:  # what scikit-image raises for a picture without a single feature
        return Features(pixels, np.zeros((0, 2)), np.zeros((0, 128), dtype=np.uint8))
    order = np.argsort(-np.asarray(sift.scales), kind="stable")  # coarse ones survive most
    points = np.asarray(sift.keypoints, dtype=np.float64)[:, ::-1]
    return Features(pixels, points[order], np.asarray(sift.descriptors)[order])


def forget() -> None:
    """Let go of what is kept of photos."""
    _KEPT.clear()
    _details.cache_clear()


_KEPT: dict[tuple, Features] = {}
_KEPT_FEATURES = 256
_LOCK = threading.Lock()


def find_matches(photos: tuple[Photo, ...], limits: Thresholds = Thresholds()) -> dict[tuple[int, int], Match]:
    """The evidence for every pair of a set that may show one shot, by the photos' places i < j.

    All pairs of a small set, of a large one those that `candidates` names.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        features = list(pool.map(lambda photo: extract(photo, limits.side), photos))
        hashes = [(photo.phash, photo.mirrored_phash) for photo in photos]
        wanted = candidates(features, hashes, limits)

        def look(pair: tuple[int, int]) -> Match:
            i, j = pair
            return compare(photos[i], photos[j], limits, wanted[pair], (features[i], features[j]))

        return dict(zip(wanted, pool.map(look, wanted), strict=True))


def compare(
    a: Photo, b: Photo, limits: Thresholds, ways: tuple[bool, ...] = (False, True),
    features: tuple[Features, Features] | None = None,
) -> Match:  # fmt: skip
    """Lay a, as it lies or mirrored, over b. features: of both as they lie, where they are at hand."""
    distance = min((a.phash ^ b.phash).bit_count(), (a.mirrored_phash ^ b.phash).bit_count())
    best = Match(a.name, b.name, "", 0, 0.0, 0.0, 0.0, False, distance)
    if a.sha256 == b.sha256:
        return Match(a.name, b.name, "duplicate", 0, 1.0, 1.0, 1.0, False, 0)
    own, other = features or (extract(a, limits.side), extract(b, limits.side))
    for mirrored in ways:
        found = _fit(own.mirrored() if mirrored else own, other, limits)
        if found is None:
            continue
        inliers, correlation, overlap, coverage, both = found
        is_copy = inliers >= limits.inliers and correlation >= limits.correlation and overlap >= limits.overlap
        share = inliers / max(1, min(len(own.points), len(other.points)))
        is_copy |= (inliers >= limits.marked_inliers and share >= limits.marked_share
                    and coverage >= limits.marked_coverage and both >= limits.marked_overlap)  # fmt: skip
        is_shoot = inliers >= limits.shoot_inliers and coverage >= limits.shoot_coverage
        kind = "duplicate" if is_copy else "same_shoot" if is_shoot else ""
        match = Match(a.name, b.name, kind, inliers, correlation, overlap, coverage, mirrored, distance)
        best = max(best, match, key=lambda m: (m.kind == "duplicate", m.kind != "", m.inliers))
    featureless = min(len(own.points), len(other.points)) < limits.inliers
    if best.kind != "duplicate" and (featureless or distance <= limits.hash_bits):
        whole = max(_whole_correlation(grey, other.grey) for grey in (own.grey, own.grey[:, ::-1]))
        if whole >= limits.whole_correlation:
            return Match(a.name, b.name, "duplicate", best.inliers, whole, 1.0, 1.0, False, distance)
    return best


def _fit(a: Features, b: Features, limits: Thresholds) -> tuple[int, float, float, float, float] | None:
    """(inliers, correlation, overlap, coverage, overlap of the larger frame) under the best affine map from a to b, or
    None.
    """
    from skimage.feature import match_descriptors

    if min(len(a.descriptors), len(b.descriptors)) < 4:
        return None
    matches = match_descriptors(a.descriptors, b.descriptors, cross_check=True, max_ratio=0.8)
    if len(matches) < 4:
        return None
    source, target = a.points[matches[:, 0]], b.points[matches[:, 1]]
    model, inliers = _ransac(source, target)
    if model is None or inliers.sum() < 4 or not _is_plausible(model):
        return None
    rigid = _similarity(source[inliers], target[inliers])  # steadier where points lie close
    overlays = [_overlay(a, b, fit) for fit in (model, rigid) if fit is not None and _is_plausible(fit)]
    enough = [found for found in overlays if found[1] >= limits.overlap]
    correlation, overlap, both = max(enough or overlays)
    coverage = max(_hull(source[inliers], a.grey.shape), _hull(target[inliers], b.grey.shape))
    return int(inliers.sum()), correlation, overlap, coverage, both


def _similarity(source: np.ndarray, target: np.ndarray) -> Any:
    """The similarity from points to points [n, 2], or None. scikit-image 0.26, for Python 3.11 on, names it anew."""
    from skimage.transform import SimilarityTransform

    if hasattr(SimilarityTransform, "from_estimate"):
        return SimilarityTransform.from_estimate(source, target) or None
    model = SimilarityTransform()
    return model if model.estimate(source, target) else None


def _ransac(source: np.ndarray, target: np.ndarray) -> tuple[AffineTransform | None, np.ndarray]:
    """The affine map on which most matches [n, 2] agree to three pixels, and which do [n].

    RANSAC (Fischler and Bolles, CACM 24, 1981), all trials in one computation: scikit-image's makes its trials one by
    one, which took nine tenths of the time of comparing two photos.
    """
    from skimage.transform import AffineTransform

    count = len(source)
    padded = np.concatenate([source, np.ones((count, 1))], 1)
    chosen = np.random.default_rng(0).random((_TRIALS, count)).argpartition(2, axis=1)[:, :3]
    corners = padded[chosen]
    corners = corners[usable := np.abs(np.linalg.det(corners)) > 1e-6]
    if not len(corners):
        return None, np.zeros(count, dtype=bool)
    maps = np.linalg.solve(corners, target[chosen[usable]])
    away = np.linalg.norm(padded @ maps - target, axis=-1)
    agree = away < _AGREE
    inliers = agree[np.lexsort([(away * agree).sum(1), -agree.sum(1)])[0]]  # of the most the nearest
    matrix = np.eye(3)
    matrix[:2] = np.linalg.lstsq(padded[inliers], target[inliers], rcond=None)[0].T
    return AffineTransform(matrix=matrix), inliers


def _is_plausible(model: AffineTransform | SimilarityTransform) -> bool:
    """A copy is scaled by up to four, hardly sheared and never mirrored (the mirror image is tried by itself)."""
    linear = np.asarray(model.params)[:2, :2]
    if np.linalg.det(linear) <= 0:
        return False
    large, small = np.linalg.svd(linear, compute_uv=False)
    return bool(0.25 < small and large < 4 and large / small < 1.4)


def _overlay(a: Features, b: Features, model: AffineTransform | SimilarityTransform) -> tuple[float, float, float]:
    """Where b, warped onto a, overlaps it: the correlation, and the overlap as part of the smaller and larger frame.

    The lower of two correlations: of grey values, which differ when one object lies on two backgrounds, and of
    details, which differ when two drawings lie on one flat background.
    """
    from skimage.transform import warp

    warped: Any = warp(b.grey, model, output_shape=a.grey.shape, cval=np.nan, order=1)
    details: Any = warp(b.details, model, output_shape=a.grey.shape, cval=0, order=1)
    valid: Any = binary_erosion(np.isfinite(warped), iterations=_MARGIN)  # frame edges and added borders do not count
    area_of_b = b.grey.size / max(float(np.linalg.det(np.asarray(model.params)[:2, :2])), 1e-6)
    seen = float(np.isfinite(warped).sum())
    overlap, both = seen / min(a.grey.size, area_of_b), seen / max(a.grey.size, area_of_b)
    if valid.sum() < 64:
        return 0.0, overlap, both
    agree = min(_correlation(a.grey[valid], warped[valid]), _correlation(a.details[valid], details[valid]))
    return agree, min(overlap, 1.0), both


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) + 1e-9))


def _whole_correlation(a: np.ndarray, b: np.ndarray) -> float:
    small = [np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BOX)).ravel() for g in (a, b)]
    return _correlation(small[0], small[1])


def _hull(points: np.ndarray, shape: tuple[int, ...]) -> float:
    try:
        return float(ConvexHull(points).volume / (shape[0] * shape[1]))
    except (QhullError, ValueError):
        return 0.0
