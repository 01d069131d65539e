"""`python -m attractor_pack.tools.footprint`: what the pack costs a ComfyUI: seconds at its start, and disk."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from .host import ROOT, fetch

_SCRIPT = """
import asyncio, importlib.util as util, json, sys, time
sys.path.insert(0, sys.argv[1]); root = sys.argv[2]; sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config, utils.install_util
import nodes, server, comfy.samplers, comfy_api.latest
before, start = set(sys.modules), time.perf_counter()
file = root + "/__init__.py"
spec = util.spec_from_file_location("attractor_probe", file, submodule_search_locations=[root])
pack = util.module_from_spec(spec)
sys.modules["attractor_probe"] = pack
spec.loader.exec_module(pack)
asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
seconds = time.perf_counter() - start
packages = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print("FOUND" + json.dumps({"seconds": seconds, "packages": packages}))
"""


def import_cost() -> dict:
    """seconds: of importing the pack where the host is imported already. packages: that came with it."""
    command = [sys.executable, "-P", "-c", _SCRIPT, str(fetch()), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONUTF8": "1"})
    return json.loads(done.stdout.rpartition("FOUND")[2])


def installed_bytes() -> int:
    """Size of what the registry gives out: tracked files but those that .comfyignore leaves out."""
    left_out = [
        line for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith(tuple(left_out))]
    return sum((ROOT / Path(name)).stat().st_size for name in names)


def main() -> int:
    """Print both."""
    runs = [import_cost() for _ in range(5)]
    print(f"import: {statistics.median(run['seconds'] for run in runs):.2f} s over the host's own, median of five")
    print(f"with it come: {', '.join(runs[0]['packages'])}")
    print(f"on disk: {installed_bytes() / 1e6:.1f} MB, of which the demo checkpoint is 12.5 MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
