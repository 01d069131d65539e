"""What is known of each photo of a training: hashes, split, duplicates, rights; never pixels, EXIF or a place."""

from __future__ import annotations

from typing import Any

from ..training.photos import SubjectSet


def manifest(train: SubjectSet, held_out: SubjectSet) -> list[dict[str, Any]]:
    """A row for each photo: name, sha256, phash (64-bit DCT hash, hexadecimal), split, the number of its group of
    near-duplicates or None, and what a manifest beside it says of its rights, or None.
    """
    certificate = train.certificate
    groups = {sha256: i for i, group in enumerate(certificate.groups if certificate else ()) for sha256 in group}
    return [
        {"photo": photo.name, "sha256": photo.sha256, "phash": f"{photo.phash:016x}", "split": split,
         "duplicate_group": groups.get(photo.sha256), "rights": photo.rights.as_dict() if photo.rights else None}
        for split, photos in (("train", train), ("held_out", held_out)) for photo in photos.photos
    ]  # fmt: skip
