"""`python -m attractor_pack.tools.schemas`: what saved graphs rely on, of every node, into tests/graphs/schemas.json.

Run it when an input was added at the end of a node; anything else breaks graphs that people have saved.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from .host import ROOT, Host

FILE = ROOT / "tests" / "graphs" / "schemas.json"
_OF_THE_HOST = {"sampler_name", "scheduler", "image_encoder", "text_encoder", "file"}  # choices that differ by host


def schemas(object_info: dict) -> dict:
    """Of each of our nodes: inputs in order with type, default and range, required or not, and outputs in order."""
    found = {}
    for name, info in sorted(object_info.items()):
        if name.startswith("Attractor_"):
            inputs = [
                _input(key, spec, kind)
                for kind in ("required", "optional")
                for key, spec in (info["input"].get(kind) or {}).items()
            ]
            outputs = [list(pair) for pair in zip(info["output"], info["output_name"], strict=True)]
            found[name] = {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}
    return found


def _input(name: str, spec: list, kind: str) -> dict:
    options = spec[1] if len(spec) > 1 else {}
    kept = {k: options[k] for k in ("default", "min", "max", "step", "multiline") if k in options}
    choices = options.get("options") if spec[0] == "COMBO" else spec[0] if isinstance(spec[0], list) else None
    if choices is not None and name not in _OF_THE_HOST:
        kept["options"] = choices
    return {"name": name, "type": spec[0] if isinstance(spec[0], str) else "COMBO", "kind": kind, **kept}


def read() -> dict:
    """What the file says."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def main() -> int:
    """Write the file from a running host."""
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder)) as host:
        text = json.dumps(schemas(host.object_info()), indent=1, ensure_ascii=False) + "\n"
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
