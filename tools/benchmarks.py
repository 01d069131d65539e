"""Where benchmarks keep what they measured: docs/benchmarks/NAME.json, and a section of docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from .host import ROOT

FOLDER = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Each section is written by the command that it names, and holds the figures of one run of it; all of them, with their
intervals, are in `docs/benchmarks/*.json`.
"""


def machine() -> str:
    """The device in words: the GPU's name, or the number of CPU cores and the processor's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return f"{os.cpu_count()} CPU cores, {names[0] if names else platform.machine()}"


def commit() -> str:
    """The commit that is checked out, in short."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def write_record(name: str, figures: Mapping[str, float], **facts: Any) -> dict:
    """Write docs/benchmarks/<name>.json: date, machine, commit, the facts given, and the figures."""
    record = {
        "date": date.today().isoformat(), "machine": machine(), "commit": commit(), **facts,
        "figures": {key: round(float(value), 4) for key, value in figures.items()},
    }  # fmt: skip
    _replace(FOLDER / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


def write_section(name: str, title: str, text: str) -> None:
    """Put a section into docs/benchmarks.md in the place of the one with this name, or at the end."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else _HEAD
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n## {title}\n\n{text.strip()}\n{end}\n"
    if begin in page and end in page:
        before, rest = page.split(begin, 1)
        page = before + section + rest.split(end, 1)[1].lstrip("\n")
    else:
        page = page.rstrip("\n") + "\n\n" + section
    _replace(PAGE, page)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
