"""`python -m attractor_pack.tools.templates`: make workflows/*.json in the real front end, and their thumbnails.

Each template is built on the canvas of a running ComfyUI in Chromium and saved as the front end serialises it. Those
that need no other model are run, and the picture that they are about becomes the thumbnail, of the others the graph.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from playwright.sync_api import Page, sync_playwright

from ..host import ROOT, Host
from ..models import link_into
from .graphs import Template, templates

FOLDER = ROOT / "workflows"
_SCRIPT = Path(__file__).with_name("build.js").read_text(encoding="utf-8").split("\n", 1)[1]
_DRAWN = """() => {
    const canvas = app.canvas, all = app.graph._nodes, margin = 40, title = 40;
    const right = Math.max(...all.map(n => n.pos[0] + n.size[0])) + 2 * margin;
    const low = Math.max(...all.map(n => n.pos[1] + n.size[1])) + 2 * margin + title;
    const scale = Math.min(canvas.canvas.width / right, canvas.canvas.height / low);
    canvas.ds.scale = scale;
    canvas.ds.offset = [margin, margin + title];
    canvas.draw(true, true);
    const cut = document.createElement("canvas");
    cut.width = scale * right;
    cut.height = scale * low;
    cut.getContext("2d").drawImage(canvas.canvas, 0, 0);
    return cut.toDataURL("image/png");
}"""
_TALL = ["PreviewImage", "PreviewAny", "SaveImage"]
_THUMBNAIL = (640, 420)


def main(argv: Sequence[str] | None = None) -> int:
    """Make all, or those whose names are given."""
    wanted = list(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        link_into(Path(folder))
        with Host(Path(folder)) as host:
            no_first_visit(host)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = open_canvas(browser.new_page(viewport={"width": 1600, "height": 900}), host.url)
            for template in templates():
                if wanted and template.name not in wanted:
                    continue
                made = build(page, template)
                text = json.dumps(made["graph"], indent=1, ensure_ascii=False) + "\n"
                (FOLDER / f"{template.name}.json").write_text(text, encoding="utf-8")
                _thumbnail(host, page, template, made).save(FOLDER / f"{template.name}.jpg", quality=86)
                print(template.name, flush=True)
            browser.close()
    return 0


def no_first_visit(host: Host) -> None:
    """Tell the front end that its dialog of a first visit has been seen."""
    path = host.base / "user" / "default" / "comfy.settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(settings | {"Comfy.TutorialCompleted": True}), encoding="utf-8")


def open_canvas(page: Page, url: str) -> Page:
    """The front end, ready to take a graph."""
    page.goto(url)
    page.wait_for_function("() => !!(window.app?.graph && window.LiteGraph?.registered_node_types?.Attractor_Train)")
    page.wait_for_timeout(3000)  # the front end restores its last or its default graph
    return page


def wait_until_idle(page: Page, seconds: float) -> None:
    """Until the host's queue is empty. Asked from here: Playwright does not await what a page's own wait promises."""
    ends = time.monotonic() + seconds
    while page.evaluate("""async () => {
        const queue = await (await fetch("/queue")).json();
        return queue.queue_running.length + queue.queue_pending.length;
    }"""):
        if time.monotonic() > ends:
            raise TimeoutError(f"the queue is not empty after {seconds:g} s")
        page.wait_for_timeout(200)


def build(page: Page, template: Template) -> dict[str, Any]:
    """graph: as the front end saves it; prompt: in API format; names: of its nodes by id. Raises RuntimeError."""
    columns = [{"title": c.title, "note": c.note, "nodes": c.nodes} for c in template.columns]
    given = {
        "columns": columns,
        "models": list(template.models),
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"attractor/{template.name}")),
        "tall": _TALL,
    }
    made = json.loads(page.evaluate(_SCRIPT, given))
    if made["problems"]:
        raise RuntimeError(f"{template.name}: {'; '.join(made['problems'])}")
    return made


def _thumbnail(host: Host, page: Page, template: Template, made: dict[str, Any]) -> Image.Image:
    """The picture that the template is about, on the pack's dark ground."""
    if template.models:
        page.set_viewport_size({"width": 3200, "height": 1900})  # large, so that titles and values are drawn
        page.wait_for_timeout(500)
        shown = Image.open(io.BytesIO(base64.b64decode(page.evaluate(_DRAWN).split(",", 1)[1])))
    else:
        run = host.queue(made["prompt"])
        node = next(i for i, name in made["names"].items() if name == template.picture)
        shown = _row([Image.open(io.BytesIO(host.fetch_output(item))) for item in run.outputs[node]["images"][:4]])
    shown = shown.convert("RGB")
    if shown.height * _THUMBNAIL[0] > shown.width * _THUMBNAIL[1]:  # tall: its upper part, large enough to be read
        shown = ImageOps.fit(shown, _THUMBNAIL, Image.Resampling.LANCZOS, centering=(0.5, 0))
    else:
        shown = ImageOps.contain(shown, _THUMBNAIL, Image.Resampling.LANCZOS)
    ground = Image.new("RGB", _THUMBNAIL, "#16191d")
    ground.paste(shown, ((_THUMBNAIL[0] - shown.width) // 2, (_THUMBNAIL[1] - shown.height) // 2))
    return ground


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side, in rows of two."""
    width, height = pictures[0].size
    columns = min(2, len(pictures))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
