"""`make demo`: the whole road through a real server's HTTP API, on the demo subject or on a folder of photos."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .graphs import main_road
from .host import ROOT, GraphError, Host, HostError
from .models import link_into

BASE = ROOT / ".demo"


def main() -> int:
    """Run the demo; the last two lines name the report and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", default="", help="folder of photos of one subject; the demo subject without it")
    parser.add_argument("--word", default="", help="what the subject is; the folder's name without it")
    chosen = parser.parse_args()
    folder = str(Path(chosen.photos).resolve()) if chosen.photos else ""
    own_name = re.sub(r"[^\w-]+", "-", Path(folder).name).strip("-") or "photos"
    word = chosen.word or (re.sub(r"[\W\d_]+", " ", own_name).strip() or "thing" if folder else "cup")
    name = f"photos-{own_name}" if folder else "demo"
    graph = main_road(folder, word, name=f"{name}-concept", report=name, held_out=0.34 if folder else 4)
    try:
        link_into(BASE)
        with Host(BASE) as host:
            print(f"server: {host.url}", flush=True)
            run = host.queue(graph, on_event=_Narrator())
            print("\n" + run.outputs["score"]["text"][0])
            print(f"{run.seconds:.0f} s in the server")
    except (GraphError, HostError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    report = BASE / "output" / "attractor" / name
    print(f"report: {report / 'report.json'}")
    print(f"page: {report / 'report.html'}")
    return 0


class _Narrator:
    """Says what the server is at, and the loss now and then."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, kind: str, data: dict) -> None:
        if kind == "executing" and data.get("node"):
            print(f"  {data['node']}", flush=True)
        texts = data.get("texts", [])
        if kind == "binary" and len(texts) >= self._seen + 15:
            self._seen = len(texts)
            print(f"    {texts[-1]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
