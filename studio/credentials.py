"""Signed content credentials (C2PA 2.1) in pictures: made by a trained model, and from which concept.

The digital source type is IPTC's trainedAlgorithmicMedia. Key and certificate are the user's; nothing of them is kept.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..metrics.generations import PNG_TEXT
from ..training.concept import Concept
from ..training.run_card import VERSION

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
RUN_CARD = "org.attractor.run_card"
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


class Signer:
    """Signs with a private key and its certificate chain, both PEM files.

    algorithm: the key's, of ALGORITHMS. timestamp: address of a time-stamping authority, or "" for none; without one a
    signature counts as long as the certificate does. Raises AttractorError, naming the file, when they do not fit.
    """

    def __init__(self, key: Path, certificate: Path, algorithm: str = "es256", timestamp: str = ""):
        try:
            import c2pa
        except ImportError as error:
            raise AttractorError("Signing needs c2pa-python: run 'pip install c2pa-python'.") from error
        self._c2pa: Any = c2pa
        secret, chain = (_pem(path, what) for path, what in ((key, "PRIVATE KEY"), (certificate, "CERTIFICATE")))
        try:
            info = c2pa.C2paSignerInfo(algorithm, chain, secret, timestamp.encode() or None)
            self._signer = c2pa.Signer.from_info(info)
        except (c2pa.C2paError, ValueError) as error:
            raise AttractorError(f"{certificate.name} and {key.name}: cannot sign by {algorithm} ({error}).") from error

    def sign(self, path: Path, concept: Concept | None = None) -> dict:
        """Sign a picture in its place; gives what was said of it.

        concept: that painted it, where the picture does not say so itself; those of `attractor sample` and sweeps do.
        Raises AttractorError, naming the file, when it is no picture, says nothing of a concept, or cannot be signed.
        """
        kind = _KINDS.get(path.suffix.lower())
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AttractorError(f"{path}: cannot be read ({error.strerror}).") from error
        if kind is None:
            raise AttractorError(f"{path}: only {', '.join(sorted(_KINDS))} pictures are signed.")
        made = _made(path, data, concept)
        manifest = {
            "claim_generator_info": [{"name": "Attractor", "version": VERSION}], "title": path.name,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [{
                    "action": "c2pa.created", "digitalSourceType": SOURCE_TYPE,
                    "softwareAgent": {"name": "Attractor", "version": VERSION}}]}},
                {"label": RUN_CARD, "data": made},
            ],
        }  # fmt: skip
        signed = io.BytesIO()
        try:
            self._c2pa.Builder(json.dumps(manifest)).sign(self._signer, kind, io.BytesIO(data), signed)
        except self._c2pa.C2paError as error:
            raise AttractorError(
                f"{path}: cannot be signed ({error}). The certificate must be for signing documents or mail, be valid "
                "today, and belong to the key."
            ) from error
        write_beside(path, lambda file: file.write_bytes(signed.getvalue()))
        return made


def credentials(path: Path) -> dict:
    """What a signed picture says: {"state": Valid, Trusted or Invalid, "issuer", "source_type", "made"}.

    Raises AttractorError when it has no content credentials.
    """
    try:
        import c2pa
    except ImportError as error:
        raise AttractorError("Signatures need c2pa-python: run 'pip install c2pa-python'.") from error
    kind = _KINDS.get(path.suffix.lower(), "image/png")
    try:
        found = json.loads(c2pa.Reader(kind, io.BytesIO(path.read_bytes())).json())
    except (c2pa.C2paError, OSError) as error:
        raise AttractorError(f"{path}: has no content credentials ({error}).") from error
    active = found["manifests"][found["active_manifest"]]
    said = {one["label"]: one["data"] for one in active.get("assertions", [])}
    actions = next((d for label, d in said.items() if label.startswith("c2pa.actions")), {}).get("actions", [])
    return {
        "state": found.get("validation_state"), "issuer": (active.get("signature_info") or {}).get("issuer"),
        "source_type": next((a["digitalSourceType"] for a in actions if "digitalSourceType" in a), None),
        "made": said.get(RUN_CARD),
    }  # fmt: skip


def _made(path: Path, data: bytes, concept: Concept | None) -> dict[str, Any]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            text: Mapping[str, Any] = getattr(picture, "text", {})
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise AttractorError(f"{path}: not a picture that can be read ({error}).") from error
    try:
        made = json.loads(text[PNG_TEXT]) if PNG_TEXT in text else None
    except ValueError:
        made = None
    if concept is not None:
        if made and made.get("concept_sha256") != concept.sha256:
            raise AttractorError(f"{path}: says that another concept painted it. Give that one, or none.")
        return made or {"format": 1, "concept_sha256": concept.sha256, "class_word": concept.class_word,
                        "run_card": concept.run_card}  # fmt: skip
    if not isinstance(made, dict) or not made.get("concept_sha256"):
        raise AttractorError(f"{path}: does not say by which concept it was painted: give it with --concept.")
    return made


def _pem(path: Path, what: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AttractorError(f"{path}: cannot be read ({error.strerror}).") from error
    if b"-----BEGIN" not in data or what.encode() not in data:
        raise AttractorError(f"{path}: no {what} in PEM format.")
    return data
