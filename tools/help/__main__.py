"""`python -m attractor_pack.tools.help`: write web/docs/<node>/<language>.md; with --pictures [NODE …] pictures too.

They are of the real page: one graph that has every node is run, and each node is shown with what it is wired to.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ...metrics.generations import to_picture
from ...training.demo_assets import subject
from ..graphs import main_road, node
from ..host import ROOT, Host
from ..models import link_into
from ..studio.catalogue import write_catalogue
from ..templates.__main__ import build, no_first_visit, open_canvas, wait_until_idle
from ..templates.parts import WITH, Column, Template, demo, grid, score, sets, training
from .pages import all_pages

FOLDER = ROOT / "web" / "docs"
_SIZE = (1500, 900)
_PLAN = """subjects: my_products
model: demo
methods: [attractor, plain]
settings: {steps: 60, background_steps: 30, resolution: 64, vectors: 3, views: 4}
painting: {seeds: 1, steps: 12, cfg: 3, size: 64}
image_encoder: demo-dino
text_encoder: demo-clip
together: 2
"""
_ONLY_NODES = "body * { visibility: hidden } canvas, .dom-widget, .dom-widget * { visibility: visible }"
_SHOW = Path(__file__).with_name("show.js").read_text(encoding="utf-8").split("\n", 1)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, and with --pictures the pictures too."""
    given = list(sys.argv[1:] if argv is None else argv)
    if "--pictures" in given:
        take_pictures([name for name in given if name.startswith("Attractor_")])
    for (name, language), text in all_pages().items():
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        (FOLDER / name / f"{language}.md").write_text(text, encoding="utf-8")
    return 0


def take_pictures(wanted: Sequence[str] = ()) -> None:
    """web/docs/<node>/picture.jpg of every node, or of those that are named."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        link_into(Path(folder))
        with Host(Path(folder), pack_name="Attractor") as host:
            no_first_visit(host)
            photos = host.base / "input" / "my_cup"
            photos.mkdir()
            for photo in subject().photos:
                to_picture(photo.pixels).save(photos / photo.name)
            write_catalogue(host.base / "input" / "my_products", 2)
            host.queue(main_road(name="demo-cup", seeds=1, training={"steps": 2, "background_steps": 1, "views": 1}))
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = open_canvas(browser.new_page(viewport={"width": _SIZE[0], "height": _SIZE[1]}), host.url)
            graph = build(page, _everything())["graph"]
            _run(page)
            page.add_style_tag(content=_ONLY_NODES)
            names = {one["type"] for one in graph["nodes"] if one["type"].startswith("Attractor_")}
            for name in sorted(names & set(wanted) if wanted else names):
                clip: Any = page.evaluate(_SHOW, [name, graph])
                shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
                (FOLDER / name).mkdir(parents=True, exist_ok=True)
                shot.save(FOLDER / name / "picture.jpg", quality=84, optimize=True)
                print(name, shot.size, flush=True)
            browser.close()


def _run(page: Page) -> None:
    """Queue what is on the canvas and wait for its end."""
    page.evaluate("() => { app.queuePrompt(0); }")
    done = """([name, key]) => app.graph._nodes.find(n => n.type === name)
        .widgets.find(w => w.name === 'attractor_panel').element.textContent.includes(key)"""
    for name, key in (("Attractor_Study", "votes"), ("Attractor_Compare", "attractor")):
        page.wait_for_function(done, arg=[name, key], timeout=900_000)
    wait_until_idle(page, 900)


def _everything() -> Template:
    """One graph with every node of the pack."""
    sets_of = {"train_set": ["split", 0], "held_out_set": ["split", 1]}
    plain = {"strength": 0.0, "background_scope": "none"}
    first, second = ({**training(), "views": 4} for _ in range(2))
    return Template("Help", (
        demo(""),
        Column("", "", {
            "photos": node("Attractor_LoadSubject", folder="my_cup", class_word="cup"),
            "mask": node("Attractor_Mask", subject=["photos", 0], back_end="auto", cells=8, **WITH),
            **sets(["mask", 0], 4, 4),
            "propose": node("Attractor_Propose", **WITH, **sets_of, **{
                k: v for k, v in first.items() if k != "strength"}, pilot_steps=40),
            "evidence": node("PreviewImage", images=["propose", 4]),
        }),
        Column("", "", {
            "train": node("Attractor_Train", **WITH, **sets_of, **first),
            "save": node("Attractor_SaveConcept", concept=["train", 0], name="demo-cup", when_exists="overwrite"),
            "load": node("Attractor_LoadConcept", file="demo-cup.safetensors"),
            "prompt": node("Attractor_Prompt", model=["model", 0], clip=["model", 1], concept=["load", 0],
                           prompt="a photo of a <subject> on a blue wooden background"),
            "sampler": node("KSampler", model=["prompt", 0], positive=["prompt", 1], negative=["none", 0],
                            latent_image=["empty", 0], seed=1, steps=20, cfg=3.0, sampler_name="euler",
                            scheduler="normal", denoise=1.0),
            "none": node("CLIPTextEncode", clip=["model", 1], text=""),
            "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
            "picture": node("PreviewImage", images=["decode", 0]),
            "plain": node("Attractor_Train", **WITH, **sets_of, **{**second, **plain}),
        }),
        Column("", "", {
            "grid": grid(["train", 0]),
            "other": grid(["plain", 0]),
            "base": grid(word="cup"),
        }),
        Column("", "", {
            "score": score("grid", report_name="attractor"),
            "score_other": score("other", report_name="plain"),
            "gate": node("Attractor_ReleaseGate", report=["score", 0], policy="internal-draft", report_name="gate"),
            "compare": node("Attractor_Compare", report_a=["score_other", 0], report_b=["score", 0],
                            names="plain\nattractor", report_name="both"),
            "sweep": node("Attractor_Sweep", plan=_PLAN, store_name="help"),
            "product": node("Attractor_Compare", report_a=["sweep", 1], report_b=["sweep", 0],
                            names="plain\nattractor", report_name=""),
            "study": node("Attractor_Study", generations_a=["other", 2], generations_b=["grid", 2],
                          names="plain\nattractor", question="subject", held_out_set=["split", 1]),
        }),
    ), "picture")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
