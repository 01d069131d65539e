"""Where a sweep's results lie: files by their own hash, and records by the hash of what they follow from.

    <store>/blobs/ab/<SHA-256 of the file><suffix>
    <store>/runs/<key>.json, subjects/<key>.json       which files belong to it, and how they were made

A file is never written over and a record is written last, at one go, so that whatever stops a writer leaves whole
results or none, and several writers cannot mix theirs: the record that is written last names files of one of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside

_KEY = re.compile(r"[0-9a-f]{64}")
_KINDS = ("runs", "subjects")
FORMAT = 1


class Store:
    """A store in a folder, or below an address that fsspec knows, such as s3://bucket/sweeps."""

    def __init__(self, where: str):
        self.where = where
        self._root: Path | None = None
        self._files: Any = None
        if "://" not in where:
            self._root = Path(where).expanduser()
            try:
                self._root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AttractorError(f"{where}: cannot be made a store ({error.strerror}).") from error
            self._root = self._root.resolve()
            return
        try:
            import fsspec
        except ImportError as error:
            raise AttractorError(f"{where}: needs fsspec: run 'pip install fsspec'.") from error
        try:
            self._files, self._below = fsspec.core.url_to_fs(where)
        except (ImportError, ValueError) as error:
            raise AttractorError(f"{where}: no such kind of store ({error}).") from error

    def path(self, name: str) -> str:
        """Where a file of the store lies, for people: a path, or an address."""
        return str(self._root / name) if self._root else f"{self.where.rstrip('/')}/{name}"

    def has(self, kind: str, key: str) -> bool:
        """Whether a result is there, all of it."""
        return self.record(kind, key) is not None

    def record(self, kind: str, key: str) -> dict | None:
        """What was kept of a result, or None when it is not there, damaged, or not all of its files are there."""
        try:
            data = json.loads(self.read(self._name(kind, key)))
            files = data["files"]
            whole = data["format"] == FORMAT and all(
                self._size(_blob_name(blob)) == data["sizes"][name] for name, blob in files.items())
        except AttractorError:
            raise
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
            return None
        return data if whole else None

    def put(self, kind: str, key: str, files: Mapping[str, bytes], what: Mapping[str, Any]) -> dict:
        """Keep a result: its files by name, and what else is worth knowing; gives the record.

        Raises AttractorError when it cannot be written, for whatever reason; then nothing of it counts.
        """
        blobs = {}
        for name, data in files.items():
            blob = hashlib.sha256(data).hexdigest() + PurePosixPath(name).suffix
            blobs[name] = blob
            if not self._holds(_blob_name(blob), data):
                self.write(_blob_name(blob), data)
        sizes = {name: len(data) for name, data in files.items()}
        record = {"format": FORMAT, "key": key, "files": blobs, "sizes": sizes, **what}
        self.write(self._name(kind, key), json.dumps(record, sort_keys=True, indent=1).encode())
        return record

    def _holds(self, name: str, data: bytes) -> bool:
        """Whether a file is there and whole; one that rotted with its size unchanged is written anew."""
        try:
            return self._size(name) == len(data) and self.read(name) == data
        except FileNotFoundError:
            return False

    def file(self, record: Mapping[str, Any], name: str) -> bytes:
        """A file of a result. Raises AttractorError when it is not what was put there."""
        blob = record["files"].get(name)
        if not isinstance(blob, str):
            raise AttractorError(f"{self.where}: the result {str(record.get('key'))[:12]} has no {name}.")
        try:
            data = self.read(_blob_name(blob))
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != blob[:64]:
            raise AttractorError(f"{self.path(_blob_name(blob))}: is damaged or gone: delete it, and sweep again.")
        return data

    def file_path(self, record: Mapping[str, Any], name: str) -> str:
        """Where that file lies, for people."""
        return self.path(_blob_name(record["files"][name]))

    def keys(self, kind: str) -> Iterator[str]:
        """Keys of all results, in no order."""
        if self._root:
            names = [p.name for p in (self._root / kind).glob("*.json")]
        else:
            folder = f"{self._below}/{kind}"
            names = [str(p).rsplit("/", 1)[-1] for p in self._files.ls(folder, detail=False)] if self._files.exists(
                folder) else []  # fmt: skip
        yield from (name[:-5] for name in names if _KEY.fullmatch(name[:-5]))

    def read(self, name: str) -> bytes:
        """A file below the store. Raises FileNotFoundError."""
        if self._root:
            path = self._inside(name)
            try:
                return path.read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                raise AttractorError(f"{path}: cannot be read ({error.strerror}).") from error
        with self._speaking():
            return self._files.cat_file(f"{self._below}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Write a file below the store, all of it or nothing. Raises AttractorError."""
        if self._root:
            if not self._root.is_dir():
                raise AttractorError(f"{self._root}: the store is gone. Bring it back, and start again: what it holds "
                                     "is not done twice.")  # fmt: skip
            write_beside(self._inside(name), lambda path: path.write_bytes(data))
            return
        with self._speaking():
            path = f"{self._below}/{name}"
            beside = f"{path}.{uuid.uuid4().hex}.part"
            self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._files.pipe_file(beside, data)
            self._files.mv(beside, path)

    def _size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        if self._root:
            path = self._inside(name)
            return path.stat().st_size if path.is_file() else None
        try:
            with self._speaking():
                return int(self._files.size(f"{self._below}/{name}"))
        except FileNotFoundError:
            return None

    def _inside(self, name: str) -> Path:
        """A path below the store. Raises AttractorError when a link leads out of it."""
        root = self._root or Path()
        path = root / name
        if not path.resolve().is_relative_to(root):
            raise AttractorError(f"{path}: leads out of the store by a symbolic link. Take the link away.")
        return path

    def _name(self, kind: str, key: str) -> str:
        if kind not in _KINDS or not _KEY.fullmatch(key):
            raise ValueError(f"no such result: {kind}/{key}")
        return f"{kind}/{key}.json"

    def _speaking(self) -> _Speaking:
        return _Speaking(self.where)


class _Speaking:
    """What goes wrong with a remote store comes out as an AttractorError; what is not there stays what it is."""

    def __init__(self, where: str):
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FileNotFoundError | AttractorError):
            why = f"{type(error).__name__}: {error}"
            raise AttractorError(f"{self._where}: the store does not answer ({why}).") from error


def files_of(record: Any, path: Path) -> list[Path]:
    """The files that belong to a record of a store in a folder; none where it is no such record.

    record: what the file at `path` holds.
    """
    store = path.parent.parent
    if path.parent.name not in _KINDS or not _KEY.fullmatch(path.stem) or not (store / "blobs").is_dir():
        return []
    if not isinstance(record, dict) or record.get("key") != path.stem or not isinstance(record.get("files"), dict):
        return []
    try:
        return [store / _blob_name(str(blob)) for blob in record["files"].values()]
    except ValueError:
        return []


def _blob_name(blob: str) -> str:
    """blobs/ab/<hash><suffix>. Raises ValueError for what names no file of a store."""
    if not re.fullmatch(r"[0-9a-f]{64}(\.[a-z0-9]+)?", blob):
        raise ValueError(f"no file of a store: {blob!r}")
    return f"blobs/{blob[:2]}/{blob}"
