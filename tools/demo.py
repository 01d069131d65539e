"""`make demo`: the whole road through a real server's HTTP API, on the demo subject or on a folder of photos."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .graphs import PROMPTS, main_road
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
    rows, head = len(PROMPTS), 31  # pixels of a sheet above its first row
    half = head + (sheet.height - head) // rows * -(-rows // 2)  # the sheet's rows in two columns
    tall = round(420 * half / sheet.width)
    canvas = Image.new("RGB", (840, 168 + tall + 430), "white")
    canvas.paste("#16191d", (0, 168, 840, 168 + tall))
    for i, mask in enumerate(masks):  # the photo, without the weight beside it
        photo = mask.crop((0, 0, mask.width // 2, mask.width // 2))
        canvas.paste(photo.resize((160, 160), Image.Resampling.LANCZOS), (4 + i * 168, 4))
    for i, part in enumerate((sheet.crop((0, 0, sheet.width, half)), sheet.crop((0, half, *sheet.size)))):
        scaled = part.resize((420, round(420 * part.height / sheet.width)), Image.Resampling.LANCZOS)
        canvas.paste(scaled, (420 * i, 168 + (round(420 * head / sheet.width) if i else 0)))
    curve.thumbnail((840, 420))
    canvas.paste(curve, ((840 - curve.width) // 2, 172 + tall))
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
