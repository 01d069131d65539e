"""Pictures as files: a folder of PNGs that say how they were made, with an index by which they are scored later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image

from ..attractor.errors import AttractorError
from ..attractor.files import read_json, write_beside, write_json
from ..training.concept import Concept
from ..training.run_card import photos_behind, photos_seen_by
from .generations import Generated, Generations, contact_sheet, from_picture, to_picture

INDEX = "pictures.json"
SHEET = "sheet.png"


def write_pictures(made: Generations, folder: Path, also: Mapping[str, str] | None = None) -> dict:
    """Write folder/0000.png and on, sheet.png and pictures.json, which is also given back.

    also: more text for each PNG by its key, such as the graph that the host writes into its pictures.
    """
    rows = []
    for i, item in enumerate(made.items):
        name, data = f"{i:04d}.png", made.png(i, also)
        write_beside(folder / name, lambda path, data=data: path.write_bytes(data))
        rows.append({"file": name, **asdict(item)})
    sheet = to_picture(contact_sheet(made))
    write_beside(folder / SHEET, lambda path: sheet.save(path, "PNG"))
    concept = made.concept
    index = {"class_word": made.class_word, "concept": concept.sha256 if concept else None,
             "photos": photos_seen_by(concept) if concept else [],
             "trained_on": photos_behind(concept) if concept else [], "pictures": rows}  # fmt: skip
    write_json(folder / INDEX, index)
    return index


def read_pictures(folder: Path, concept: Concept | None, class_word: str = "") -> Generations:
    """What write_pictures wrote. Raises AttractorError where the index or a picture of it is missing or damaged."""
    index = read_json(folder / INDEX)
    images, items = [], []
    for row in index.get("pictures", []):
        try:
            with Image.open(folder / Path(row["file"]).name) as picture:
                images.append(from_picture(picture))
            items.append(Generated(row["prompt"], row["seed"], row["settings"]))
        except (OSError, KeyError, TypeError) as error:
            raise AttractorError(f"{folder / INDEX}: its picture {row} is missing or damaged ({error}).") from error
    if not images or len({image.shape for image in images}) > 1:
        raise AttractorError(f"{folder / INDEX}: lists no pictures, or pictures of different sizes.")
    seen = tuple(map(str, index.get("trained_on") or ()))
    word = class_word or index.get("class_word", "")
    return Generations(torch.stack(images), tuple(items), word, concept, trained_on=seen)


def painted_by(folder: Path) -> str | None:
    """The hash of the concept that painted a folder of pictures; None for the class word alone."""
    return read_json(folder / INDEX).get("concept")
