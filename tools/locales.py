"""`python -m attractor_pack.tools.locales`: the English node texts, as the schemas say them, into locales/en.

locales/ja and locales/zh are written by hand; tests/host/test_schemas.py says what is missing in them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from .host import ROOT, Host

FOLDER = ROOT / "locales"
LANGUAGES = ("en", "ja", "zh")


def texts(object_info: dict) -> dict:
    """Of each of our nodes: its name, description, inputs and outputs, in the front end's format."""
    found = {}
    for key, info in sorted(object_info.items()):
        if not key.startswith("Attractor_"):
            continue
        given = {k: v for kind in ("required", "optional") for k, v in (info["input"].get(kind) or {}).items()}
        inputs = {k: {"name": k, "tooltip": (v[1] if len(v) > 1 else {}).get("tooltip", "")} for k, v in given.items()}
        found[key] = {
            "display_name": info["display_name"],
            "description": info["description"],
            **({"inputs": inputs} if inputs else {}),
            "outputs": {str(i): {"name": name} for i, name in enumerate(info["output_name"])},
        }
    return found


def read(language: str) -> dict:
    """The node texts of a language."""
    return json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def main() -> int:
    """Write the English file from a running host."""
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder)) as host:
        text = json.dumps(texts(host.object_info()), indent=2, ensure_ascii=False) + "\n"
    (FOLDER / "en").mkdir(parents=True, exist_ok=True)
    (FOLDER / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
