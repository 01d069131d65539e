"""The demo checkpoint paints what it is asked for, in the real host, as the judge reads it; and the benchmark runs."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from attractor_pack.tools import judge as judges
from attractor_pack.tools.graphs import node
from attractor_pack.tools.host import ROOT
from attractor_pack.tools.quality.base import Base
from attractor_pack.tools.world import caption, sample_scene
from PIL import Image

pytestmark = [pytest.mark.host, pytest.mark.slow]


def test_the_judge_reads_sixty_samples_as_they_were_asked_for(server, load_demo, demo):
    rng = np.random.default_rng(123)
    scenes = [sample_scene(rng) for _ in range(60)]
    run = server.queue(load_demo(
        grid=node("Attractor_SampleGrid", **demo, class_word="cup", prompts="\n".join(caption(s) for s in scenes),
                  negative="", first_seed=7, seeds=1, batch_size=1, steps=20, cfg=3.0, sampler_name="euler",
                  scheduler="normal", width=64, height=64),
        save=node("SaveImage", images=["grid", 0], filename_prefix="sixty"),
    ))  # fmt: skip
    pictures = [Image.open(io.BytesIO(server.fetch_output(i))).convert("RGB") for i in run.outputs["save"]["images"]]
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 255 for p in pictures])
    figures = Base(scenes, pixels, judges.load().read(pixels)).figures()
    assert figures["background_ok"] >= 0.9, figures
    assert figures["kind_ok"] >= 0.85, figures
    assert figures["colours_ok"] >= 0.7, figures


def test_the_short_quality_benchmark_shows_the_leak_and_its_end():
    command = [sys.executable, "-P", "-m", "attractor_pack.tools.quality", "--short", "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    leak = {}
    for about in ("Textual Inversion, tuned", "TI + attractor"):
        row = re.search(rf"^{re.escape(about)}\s+(.*)$", done.stdout, re.M)
        assert row, done.stdout
        leak[about] = [float(v) for v in row.group(1).split()]
    plain, ours = leak["Textual Inversion, tuned"], leak["TI + attractor"]
    assert plain[0] > 0.1, "plain training did not leak"
    assert ours[0] < 0.5 * plain[0]
