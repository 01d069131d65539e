"""`make bench-speed`: what a training step, a NeTI picture and a whole training cost beside the least they could.

Writes docs/benchmarks/speed.json, or speed_gpu.json where there is a GPU, and its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from .. import benchmarks, checkpoints
from . import gpu, many, rival, steps
from .memory import beyond_weights

ON_GPU = {"sd15_gpu": gpu.sd15, "training_gpu": gpu.training, "sdxl_gpu": gpu.sdxl}
PARTS = ("demo", "together", "diffusers", "sd15", *ON_GPU)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts that are asked for and print them; `--write` keeps them, when all were."""
    parser = argparse.ArgumentParser(description=__doc__)
    here = list(ON_GPU) if torch.cuda.is_available() else [part for part in PARTS if part not in ON_GPU]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=here)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks; leave out --parts with it")
    parser.add_argument("--keep", type=Path, help="a folder for the random checkpoints of the GPU's parts")
    chosen = parser.parse_args(argv)
    if chosen.write and set(chosen.parts) != set(here):
        parser.error(f"--write keeps whole records: leave out --parts, or name all of {', '.join(here)}")
    parts = {"demo": demo, "together": together, "diffusers": diffusers, "sd15": sd15}
    parts |= {name: partial(measure, chosen.keep) for name, measure in ON_GPU.items()}
    checkpoints.import_host()
    figures: dict[str, float] = {"threads": torch.get_num_threads()}
    for part in PARTS:
        if part in chosen.parts:
            found = parts[part]()
            figures |= found
            for name, value in found.items():
                print(f"{name:44s} {value:.4f}", flush=True)
    if chosen.write:
        on_gpu = torch.cuda.is_available()
        name = "speed_gpu" if on_gpu else "speed"
        title = f"Speed{' on a GPU' if on_gpu else ''}, beside the least it could cost"
        record = benchmarks.write_record(name, figures, parts=chosen.parts)
        benchmarks.write_section(name, title, _section(record, figures) + gpu.section(figures))
    return 0


def demo() -> dict[str, float]:
    """Steps of every representation at batch 8, and a NeTI picture of 20 steps."""
    host = _demo_host()
    figures = {}
    for kind in ("TI", "XTI", "NeTI"):
        found = steps.step_over_bare(host, 8, 64, 48, 48, representation=kind)
        name = "demo_b8" if kind == "TI" else f"demo_b8_{kind}"
        figures[f"step_over_bare.{name}"] = found["over_bare"]
        figures |= {f"{name}.{k}": v for k, v in found.items() if k != "over_bare"}
    sampling = steps.sampling_over_stock(host, 20, 64, 7)
    figures["neti_sampling_over_stock"] = sampling["over_stock"]
    return figures | {f"neti_sampling.{k}": v for k, v in sampling.items() if k != "over_stock"}


def diffusers() -> dict[str, float]:
    """Against the diffusers script."""
    return rival.against_script(_demo_host())


def together() -> dict[str, float]:
    """Eight subjects in one batch."""
    found = many.together_over_serial(_demo_host())
    figures = {"eight_together_over_serial": found.pop("over_serial")}
    return figures | {f"eight_together.{k}": v for k, v in found.items()}


def sd15() -> dict[str, float]:
    """SD1.5 at full size with random weights: steps at 256 pixels, a NeTI picture and memory of a step at 512."""
    host = steps.full_size_host("sd15")
    found = steps.step_over_bare(host, 2, 256, 1000, 8)
    figures = {"step_over_bare.sd15_256": found["over_bare"]}
    figures |= {f"sd15_256.{k}": v for k, v in found.items() if k != "over_bare"}
    sampling = steps.sampling_over_stock(host, 4, 512, 1)  # encoding grows with the steps as painting does
    figures |= {f"sd15_512.neti_sampling_{k}": v for k, v in sampling.items()}
    weights = [host.patcher.model, host.clip.cond_stage_model, host.vae.first_stage_model]
    figures["sd15.weights_gib"] = sum(p.numel() * p.element_size() for m in weights for p in m.parameters()) / 2**30
    for name, checkpointing in (("checkpointed", True), ("plain", False)):
        peak = beyond_weights(host, 512, checkpointing)
        figures |= {f"sd15_512.{name}.{k}": v for k, v in peak.items()}
    return figures


def _demo_host():
    from ...nodes.host import demo as demo_checkpoint
    from ...nodes.host.model import HostModel

    with torch.inference_mode():
        return HostModel(*demo_checkpoint.load())


def _section(record: dict, figures: dict[str, float]) -> str:
    def row(what: str, name: str, asked: str) -> str:
        return f"| {what} | {figures[name]:.2f} | {asked} |" if name in figures else ""

    rows = [
        row("training step over the bare U-Net's forward and backward, demo, batch 8", "step_over_bare.demo_b8",
            "1.10"),
        row("the same with the measurements of 400 steps", "demo_b8.with_measuring", "–"),
        row("the same, XTI", "step_over_bare.demo_b8_XTI", "–"),
        row("the same, NeTI", "step_over_bare.demo_b8_NeTI", "–"),
        row("the same, TI, SD1.5 with random weights, 256 px, batch 2", "step_over_bare.sd15_256", "1.10"),
        row("the same with the measurements of 400 steps", "sd15_256.with_measuring", "–"),
        row("steps a second over the diffusers script's, demo, batch 8", "steps_over_diffusers", "at least 1.5"),
        row("time to the script's lowest held-out loss over the script's", "time_to_equal_loss_over_diffusers", ".25"),
        row("NeTI picture over the stock one, demo, 20 steps, encoding included", "neti_sampling_over_stock", "1.15"),
        row("the next picture of the same prompt", "neti_sampling.next_over_stock", "1.15"),
        row("NeTI picture over the stock one, SD1.5 with random weights, 512 px, 4 steps",
            "sd15_512.neti_sampling_over_stock", "1.15"),
        row("the next picture of the same prompt", "sd15_512.neti_sampling_next_over_stock", "1.15"),
        row("eight subjects in one batch over one after the other, demo, batch 4 each", "eight_together_over_serial",
            ".50"),
    ]  # fmt: skip
    head = (
        f"`make bench-speed` on {record['date']}, {record['machine']}, commit {record['commit']}; what is compared "
        "takes turns in one process. Steps are medians of whole steps of the default training: drawing, prompts with "
        "subject and background, text encoder, U-Net, optimiser.\n\n"
    )
    rows = [one for one in rows if one]
    if not rows:
        return head.strip()
    if "sd15.weights_gib" not in figures:
        return head + "\n".join(["| what | ratio | asked |", "|---|---|---|", *rows])
    plain, anew = (figures[f"sd15_512.{name}.beyond_gib"] for name in ("plain", "checkpointed"))
    memory = (f"\n\nSD1.5's weights are {figures['sd15.weights_gib']:.1f} GiB here (float32 on a CPU). A training step "
              f"at 512 px with a batch of 1 takes {plain:.2f} GiB beyond what lay in memory before it, and {anew:.2f} "
              "GiB with checkpointing, at its peak as the system counts the process's memory.")  # fmt: skip
    return head + "\n".join(["| what | ratio | asked |", "|---|---|---|", *rows]) + memory


if __name__ == "__main__":
    sys.exit(main())
