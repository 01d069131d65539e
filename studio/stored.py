"""Runs of a sweep as reports and pictures again, from what the store holds of them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..metrics.generations import Generated, Generations, from_picture
from ..metrics.verdict import Answer, Verdict
from ..training.concept import load_concept
from .store import Store


class StoredReport:
    """A report that was written earlier: what comparisons, gates and studies ask of a Report, and no more."""

    def __init__(self, store: Store, record: Mapping[str, Any]):
        self._store, self._record = store, record
        self._data = json.loads(store.file(record, "report.json"))

    def as_dict(self) -> dict:
        """report.json."""
        return self._data

    @property
    def verdict(self) -> Verdict:
        """As it was given then."""
        said = self._data["verdict"]
        return Verdict(said["grade"], said["headline"], tuple(Answer(**one) for one in said["answers"]))

    @cached_property
    def generations(self) -> Generations:
        """The pictures, read when they are asked for."""
        items = tuple(Generated(**item) for item in self._data["pictures"])
        pictures = []
        for i in range(len(items)):
            with Image.open(io.BytesIO(self._store.file(self._record, f"{i:04d}.png"))) as picture:
                pictures.append(from_picture(picture))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "concept.safetensors"
            path.write_bytes(self._store.file(self._record, "concept.safetensors"))
            concept = load_concept(path)
        return Generations(torch.stack(pictures), items, self._data["class_word"], concept)
