"""Take the photos of the demo subject: five of one shoot, four in other backgrounds, with exact masks."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from ..world import Photo, Subject, sample_subject, subject_photos


def save_photos(folder: Path, photos: list[tuple[str, Photo]]) -> None:
    """Write `<stem>.png` and `masks/<stem>.png` (8-bit grey) for every (stem, photo)."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for stem, photo in photos:
        Image.fromarray(photo.image).save(folder / f"{stem}.png")
        mask = (photo.mask * 255 + 0.5).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")


def demo_subject(subject_seed: int, kind: str, photo_seed: int) -> tuple[Subject, list[tuple[str, Photo]]]:
    """The subject and its named photos: shoot_1 to shoot_5, then other_1 to other_4."""
    subject = sample_subject(subject_seed, kind)
    shoot = subject_photos(subject, 5, "same_shoot", photo_seed)
    seen = ((shoot[0].scene.background, shoot[0].scene.background_colour),)
    other = subject_photos(subject, 4, "varied", photo_seed + 1, avoid=seen)
    named = [(f"shoot_{i + 1}", photo) for i, photo in enumerate(shoot)]
    return subject, named + [(f"other_{i + 1}", photo) for i, photo in enumerate(other)]


def main(argv: list[str] | None = None) -> None:
    """Command line of the subject stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/demo/subject"))
    parser.add_argument("--subject-seed", type=int, default=0)
    parser.add_argument("--kind", default="cup")
    parser.add_argument("--photo-seed", type=int, default=0)
    args = parser.parse_args(argv)
    subject, photos = demo_subject(args.subject_seed, args.kind, args.photo_seed)
    save_photos(args.out, photos)
    facts = {
        "word": subject.kind,
        "description": f"{subject.words()} with a {subject.detail.colour} {subject.detail.shape} on its side",
        "subject": asdict(subject),
        "seeds": {"subject": args.subject_seed, "photos": args.photo_seed},
        "photos": {f"{stem}.png": {"background": f"{photo.scene.background_colour} {photo.scene.background}",
                                   "setting": "same_shoot" if stem.startswith("shoot") else "varied"}
                   for stem, photo in photos},
    }
    with open(args.out / "subject.json", "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
