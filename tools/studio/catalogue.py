"""A catalogue of the demo world as a set on disk: `python -P -m attractor_pack.tools.studio.catalogue DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...attractor.errors import AttractorError
from ...attractor.files import write_beside
from ...metrics.generations import to_picture
from ...metrics.splits import check_disjoint
from ..quality.cases import Case


def write_catalogue(folder: Path, subjects: int, setting: str = "same_shoot", prompts: int = 4) -> Path:
    """Folders item-00, item-01, … with train/, test/, class.txt and prompts.txt: `prompts` that spell a background
    out, and one that names none.
    """
    number = done = 0
    while done < subjects:
        case = Case("develop", number, setting)
        number += 1
        if _is_disjoint(case):
            _write(case, folder / f"item-{done:02d}", prompts)
            done += 1
    return folder


def _is_disjoint(case: Case) -> bool:
    """Renders of 64 pixels are now and then so alike that a split would refuse them."""
    try:
        check_disjoint(*case.sets())
    except AttractorError:
        return False
    return True


def _write(case: Case, folder: Path, prompts: int) -> None:
    for part, photos in zip(("train", "test"), case.sets(), strict=True):
        for i, photo in enumerate(photos.photos):
            picture = to_picture(photo.pixels)
            write_beside(folder / part / f"{i:02d}.png", lambda file, picture=picture: picture.save(file, "PNG"))
    asked = [p.text for p in case.prompts if p.grade == "full"][:prompts] + ["a photo of a <subject>"]
    for name, text in (("class.txt", case.word), ("prompts.txt", "\n".join(asked))):
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=8)
    chosen = parser.parse_args()
    print(write_catalogue(chosen.folder, chosen.subjects))
