"""Whether photos may be trained on: a manifest of source, licence and consent, and what a file says of itself.

A file speaks by the PLUS "Data Mining" property (IPTC Photo Metadata Standard 2023.1, in XMP) or by a C2PA or CAWG
training-mining assertion.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attractor.errors import AttractorError

if TYPE_CHECKING:
    from .photos import Photo, SubjectSet

FILES = ("manifest.csv", "manifest.json")  # beside the photos
COLUMNS = ("photo", "source", "licence", "consent", "expires", "training")
_ALIKE = {"license": "licence", "file": "photo", "filename": "photo", "name": "photo"}
_YES = {"", "yes", "y", "true", "1", "allowed"}
_NO = {"no", "n", "false", "0", "notallowed", "not allowed", "forbidden"}
_DMI = re.compile(r"DataMining.{0,200}?(DMI-PROHIBITED[A-Z-]*)", re.S)
_C2PA = re.compile(  # an entry of its own says of training that it is not allowed, or only under conditions
    r"(?:c2pa|cawg)\.ai_(?:generative_)?training\W(?:(?!allowed|c2pa|cawg).){0,60}?(notAllowed|constrained)", re.S
)
_TELLING = ("train", "expir", "valid", "consent", "licen")  # a column of such a name must not go unread
_LARGEST = 20_000_000  # bytes of a manifest
_SHOWN = 5  # photos that a message names


@dataclass(frozen=True)
class Rights:
    """What a manifest says of one photo. consent: a reference, never a name. training: False forbids it."""

    source: str = ""
    licence: str = ""
    consent: str = ""
    expires: date | None = None
    training: bool = True
    manifest: str = ""  # SHA-256 of the file that says so

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "source": self.source, "licence": self.licence, "consent": self.consent, "training": self.training,
            "expires": self.expires.isoformat() if self.expires else None, "manifest": self.manifest,
        }  # fmt: skip


def forbids_training(data: bytes, xmp: str | bytes = b"") -> str:
    """What a photo's file says against being trained on; empty where it says nothing. xmp: as a reader unpacked it."""
    unpacked = xmp.encode() if isinstance(xmp, str) else xmp
    for text in (t.decode("latin-1") for t in (data, unpacked, unpacked.replace(b"\0", b""))):
        if found := _DMI.search(text):
            return f"its metadata says {found.group(1)} (IPTC Data Mining)"
        if found := _C2PA.search(text):
            return f"its content credentials say of training: {found.group(1)} (C2PA)"
    return ""


def manifest_file(folder: Path, beside: Path | None = None) -> Path | None:
    """The manifest in a folder of photos, or the one that lies beside it; None where there is none. Raises
    AttractorError where there are two.
    """
    found = [path for path in sorted(folder.iterdir()) if path.name.lower() in FILES]
    found += [beside] if beside is not None else []
    if len(found) > 1:
        named = [path.name if path.parent == folder else str(path) for path in found]
        raise AttractorError(f"{folder}: holds or has beside it {' and '.join(named)}. Keep one of them.")
    return found[0] if found else None


def strictest(photos: Sequence[Photo]) -> dict[str, Rights]:
    """Rights by SHA-256; where the same photo is there twice, what either forbids."""
    found: dict[str, Rights] = {}
    for photo in photos:
        own = photo.rights
        if own is None:
            continue
        other = found.get(photo.sha256, own)
        ends = [one.expires for one in (other, own) if one.expires]
        consent = own.consent if other.consent else ""
        training = own.training and other.training
        found[photo.sha256] = replace(own, consent=consent, expires=min(ends, default=None), training=training)
    return found


def read_manifest(path: Path) -> dict[str, Rights]:
    """Rights by file name, from CSV (a header, then a row a photo) or JSON (a list of objects).

    Columns: photo, source, licence, consent, expires (YYYY-MM-DD), training (yes or no); others are left alone. UTF-8
    with or without BOM, UTF-16 with one, or Shift-JIS. Raises AttractorError, naming row and column, for what cannot be
    understood.
    """
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    found: dict[str, tuple[int, Rights]] = {}
    for number, row in _rows(data, path):
        name, rights = _entry(row, digest, f"{path.name}, row {number}")
        if name in found and found[name][1] != rights:
            raise AttractorError(
                f"{path.name}: rows {found[name][0]} and {number} say different things of {name}. Keep one of them."
            )
        found.setdefault(name, (number, rights))
    return {name: rights for name, (_, rights) in found.items()}


def check_rights(subject: SubjectSet, today: date | None = None) -> None:
    """Raise AttractorError when a photo may not be trained on: what it is, which photo, and what to do.

    today: the day that consents must reach; without it, this one.
    """
    day = today or date.today()
    wrong = []
    for photo in subject.photos:
        rights = photo.rights
        if rights is not None and not rights.training:
            wrong.append(f"{photo.name}: the manifest forbids training")
        elif rights is not None and rights.expires is not None and rights.expires < day:
            wrong.append(f"{photo.name}: the consent {rights.consent or '(no reference)'} expired on {rights.expires}")
        elif photo.forbids and not (rights is not None and rights.consent):
            wrong.append(f"{photo.name}: {photo.forbids}")
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise AttractorError(
            f"May not be trained on: {'; '.join(wrong[:_SHOWN])}{more}. Take these photos out, or, where you have the "
            "right, put a manifest.csv with the reference of a valid consent beside the photos."
        )


def check_start(card: dict, today: date | None = None) -> None:
    """Raise AttractorError when a consent behind the concept that is gone on from has ended."""
    ends = str((card.get("rights") or {}).get("expires") or "")
    if ends and ends < (today or date.today()).isoformat():
        raise AttractorError(
            f"start_concept: a consent for its photos expired on {ends}. Train it again on photos with a valid one."
        )


def card_of(subject: SubjectSet, before: dict) -> dict:
    """What a run card says of rights: the manifests' hashes and the day on which the first consent ends.

    before: the run card of the concept that is gone on from, or none.
    """
    known = [photo.rights for photo in subject.photos if photo.rights is not None]
    earlier = before.get("rights") or {}
    if not known and not earlier:
        return {}
    ends = [rights.expires.isoformat() for rights in known if rights.expires] + [earlier.get("expires")]
    manifests = {rights.manifest for rights in known} | set(earlier.get("manifests") or [])
    return {"rights": {"manifests": sorted(manifests), "photos": len(known) + int(earlier.get("photos") or 0),
                       "expires": min((str(end) for end in ends if end), default="")}}  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise AttractorError(f"{path.name}: larger than {_LARGEST // 10**6} MB; that is no manifest.")
        return path.read_bytes()
    except OSError as error:
        raise AttractorError(f"{path}: cannot be read ({error.strerror}).") from error


def _rows(data: bytes, path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(row as an editor counts it, its cells)."""
    text = _text(data, path)
    if path.suffix.lower() == ".json":
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise AttractorError(f"{path.name}: not JSON ({error}).") from error
        listed = listed.get("photos") if isinstance(listed, dict) else listed
        if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
            raise AttractorError(f"{path.name}: a list of objects is expected, one a photo, each with 'photo' in it.")
        rows = list(enumerate(listed, 1))
        heads = list(dict.fromkeys(key for row in listed for key in row))
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise AttractorError(f"{path.name}, row {reader.line_num}: not CSV ({error}).") from error
        heads = list(reader.fieldnames or [])
        rows = [(number, row) for number, row in rows if any(str(v or "").strip() for v in row.values())]
        if torn := next((number for number, row in rows if None in row or None in row.values()), None):
            raise AttractorError(
                f"{path.name}, row {torn}: has more or fewer cells than there are columns. Put text with commas into "
                "quotes, and write an empty cell where nothing is to be said."
            )
    _check_heads([str(head) for head in heads], path)
    if not rows:
        raise AttractorError(f"{path.name}: has no rows. Add one for each photo, or take the file out.")
    return [(number, _cells(row)) for number, row in rows]


def _text(data: bytes, path: Path) -> str:
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp932"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AttractorError(f"{path.name}: not text in UTF-8, UTF-16 or Shift-JIS. Save it as CSV in UTF-8.")


def _cells(row: dict) -> dict[str, str]:
    """By column; a cell of a column that has another name is taken where the column itself is not there."""
    plain = {str(key).strip().lower(): str("" if value is None else value).strip() for key, value in row.items()}
    return {_ALIKE[key]: value for key, value in plain.items() if key in _ALIKE} | plain


def _check_heads(heads: list[str], path: Path) -> None:
    plain = [head.strip().lower() for head in heads]
    if twice := next((head for head in plain if plain.count(head) > 1), None):
        raise AttractorError(f"{path.name}: has the column {twice!r} twice. Keep one.")
    known = {_ALIKE.get(head, head) for head in plain}
    if "photo" not in known:
        raise AttractorError(f"{path.name}: has no column 'photo'. Columns are {', '.join(COLUMNS)}.")
    for head in set(plain) - set(COLUMNS) - set(_ALIKE):
        near = difflib.get_close_matches(head, set(COLUMNS) - known, 1, 0.75)
        if near or any(part in head for part in _TELLING):
            like = near[0] if near else "one of the columns"
            raise AttractorError(
                f"{path.name}: column {head!r} looks like {like!r}. Columns are {', '.join(COLUMNS)}: call it that, or "
                "something else where it says nothing of rights."
            )


def _entry(row: dict[str, str], digest: str, where: str) -> tuple[str, Rights]:
    name = row.get("photo", "")
    if not name:
        raise AttractorError(f"{where}: 'photo' is empty. Write the file's name.")
    told = row.get("training", "").lower()
    if told not in _YES | _NO:
        raise AttractorError(f"{where}: training is {row['training']!r}. Write yes or no.")
    expires = None
    if text := row.get("expires", ""):
        try:
            expires = date.fromisoformat(text.replace("/", "-"))
        except ValueError:
            raise AttractorError(f"{where}: expires is {text!r}. Write a date as YYYY-MM-DD.") from None
    texts = (row.get("source", ""), row.get("licence", ""), row.get("consent", ""))
    return name, Rights(*texts, expires, told in _YES, digest)
