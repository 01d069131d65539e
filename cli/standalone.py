"""`python standalone.py COMMAND …`: the command line where the pack is a folder in custom_nodes, not installed."""

from __future__ import annotations

import sys

sys.path[:1] = []  # this folder: its files' names are no modules of their own

import importlib  # noqa: E402
import signal  # noqa: E402
import types  # noqa: E402
from pathlib import Path  # noqa: E402

if __name__ == "__main__":
    for name in ("SIGINT", "SIGBREAK", "SIGTERM"):  # also where whoever started the host has it ignore Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    package = types.ModuleType("attractor_pack")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["attractor_pack"] = package
    sys.exit(importlib.import_module("attractor_pack.cli.main").main())
