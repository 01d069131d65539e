"""Photos with rights, and reports of a copier and of an honest generator, for what studios need."""

import shutil
from dataclasses import replace
from datetime import date

import pytest
import torch
from attractor_pack.metrics.encoders import efficientnet_lite0
from attractor_pack.metrics.scores import score
from attractor_pack.metrics.splits import split_set
from attractor_pack.training.concept import Concept
from attractor_pack.training.photos import read_folder

from .test_verdicts import paints

DAY = date(2026, 11, 27)
UNSEEN = ("04.jpg", "05.jpg")


def rows(photos, **changes):
    told = {"source": "studio A", "licence": "own", "consent": "C-17", "expires": "2030-01-31", "training": "yes"}
    told |= changes
    lines = [",".join(("photo", *told)), *(",".join((p.name, *told.values())) for p in sorted(photos.glob("*.jpg")))]
    return "\n".join(lines) + "\n"


@pytest.fixture
def photos(dreambooth, tmp_path):
    folder = tmp_path / "backpack"
    shutil.copytree(dreambooth / "backpack", folder)
    (folder / "manifest.csv").write_text(rows(folder), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reports(dreambooth, tmp_path_factory):
    """Of a generator that copies its photos and of one that paints photos that neither side holds."""
    folder = tmp_path_factory.mktemp("rights") / "backpack"
    shutil.copytree(dreambooth / "backpack", folder)
    for name in UNSEEN:
        (folder / name).unlink()
    (folder / "manifest.csv").write_text(rows(folder), encoding="utf-8")
    split = split_set(read_folder(folder, "backpack"), 2, 0)
    unseen = [photo for photo in read_folder(dreambooth / "backpack", "backpack").photos if photo.name in UNSEEN]
    base = paints(read_folder(dreambooth / "backpack_dog", "backpack").photos[:4])
    card = {"train_photos": [p.sha256 for p in split.train.photos], "split_certificate": split.certificate.sha256}
    concept = Concept({"l": torch.ones(1, 768)}, "backpack", card)
    encoder = efficientnet_lite0([])
    return {name: score(replace(paints(made), concept=concept), base, split.train, split.held_out, [encoder])
            for name, made in (("copier", split.train.photos), ("honest", unseen))}  # fmt: skip


def disc(size=96, radius=24.0, x=48, y=48):
    """A disc's mask [size, size]."""
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((xx - x) ** 2 + (yy - y) ** 2 < radius**2).float()
