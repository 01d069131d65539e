"""Files that are whole or not there: written beside their place and renamed; JSON that is read says what is wrong."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import AttractorError


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file through a temporary one beside it, then rename. Raises AttractorError when it cannot be."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=path.suffix + ".part", dir=path.parent)
        os.close(handle)
        write(Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise AttractorError(
            f"{path}: cannot be written ({error.strerror or error}). Check the folder's permissions and free space."
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path: Path, data: dict) -> None:
    """Write JSON beside its place, then rename."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    write_beside(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises AttractorError, naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AttractorError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise AttractorError(f"{path}: not JSON ({error}).") from error
    if not isinstance(data, dict):
        raise AttractorError(f"{path}: a JSON object is expected.")
    return data
