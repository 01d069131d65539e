"""`make demo`: the whole road through a real server's HTTP API, on the demo subject or on a folder of photos."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .graphs import main_road
from .host import ROOT, GraphError, Host, HostError, Run
from .models import link_into

BASE = ROOT / ".demo"


def main() -> int:
    """Run the demo; the last two lines name the report and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", default="", help="folder of photos of one subject; the demo subject without it")
    parser.add_argument("--word", default="", help="what the subject is; the folder's name without it")
    parser.add_argument("--picture", default="", help="also write masks, sheet and curve of this run as one picture")
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
            if chosen.picture:
                _picture(host, run, Path(chosen.picture))
            print("\n" + run.outputs["score"]["text"][0])
            print(f"{run.seconds:.0f} s in the server")
    except (GraphError, HostError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    report = BASE / "output" / "attractor" / name
    print(f"report: {report / 'report.json'}")
    print(f"page: {report / 'report.html'}")
    return 0


def _picture(host: Host, run: Run, path: Path) -> None:
    """Train photos with their masks, the contact sheet, and the loss curve, as the server gave them."""
    import io

    from PIL import Image

    def shown(name: str) -> list:
        return [Image.open(io.BytesIO(host.fetch_output(i))).convert("RGB") for i in run.outputs[name]["images"]]

    masks, sheet, curve = shown("overlay")[-5:], shown("sheet")[0], shown("curve")[0]
    sheet = sheet.resize((840, round(840 * sheet.height / sheet.width)))
    canvas = Image.new("RGB", (840, 168 + sheet.height + 430), "white")
    for i, mask in enumerate(masks):
        canvas.paste(mask.resize((160, 160), Image.Resampling.LANCZOS), (4 + i * 168, 4))
    canvas.paste(sheet, (0, 168))
    curve.thumbnail((840, 420))
    canvas.paste(curve, ((840 - curve.width) // 2, 172 + sheet.height))
    canvas.save(path, quality=86)


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
