"""`python standalone.py COMMAND …`: the command line where the pack is a folder in custom_nodes, not installed."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

if __name__ == "__main__":
    package = types.ModuleType("attractor_pack")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["attractor_pack"] = package
    sys.exit(importlib.import_module("attractor_pack.cli.main").main())
