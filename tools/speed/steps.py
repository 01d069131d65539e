"""Training steps beside the bare forward and backward of the same U-Net, turn by turn in one run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...training import demo_assets
from ...training.device import deterministic
from ...training.run import TrainingRun
from ...training.settings import TrainSettings
from ...training.watcher import Silent
from .. import checkpoints


class _Enough(Exception):
    """Has seen what it wanted."""


def now() -> float:
    """Seconds, when the GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class _InTurns(Silent):
    """After each step of ours does a step of the other, and takes the time of both.

    On a GPU turns are of several steps each, with nothing waited for in between, as in a training.
    """

    def __init__(self, other: Callable[[], object], stop_after: int):
        self._other, self._stop_after, self._last = other, stop_after, now()
        self._turn, self._taken = 5 if torch.cuda.is_available() else 1, 0
        self.ours: list[float] = []
        self.others: list[float] = []

    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """The other's turn."""
        self._taken += 1
        if self._taken % self._turn:
            return
        here = now()
        self.ours.append((here - self._last) / self._turn)
        for _ in range(self._turn):
            self._other()
        self._last = now()
        self.others.append((self._last - here) / self._turn)
        if self._taken >= self._stop_after:
            raise _Enough

    def begin(self) -> None:
        """The time of the first step starts here."""
        self._last = now()

    def ratio(self) -> tuple[float, float, float]:
        """Ours over the other's, and the seconds of each: medians of the later half, so that measurements, which are
        rare in a real training, do not count, and XTI's layers have parted.
        """
        ours, other = (float(np.median(one[len(one) // 2 :])) for one in (self.ours, self.others))
        return ours / other, ours, other


def step_over_bare(
    host: Any, batch: int, resolution: int, steps: int, stop_after: int, **settings: Any
) -> dict[str, float]:
    """Seconds of a whole step (masks, subject and background tokens) and of the bare U-Net's.

    with_measuring: the same with the measurements of a training of 400 steps, train and held-out photos, shared out
    over its steps.
    """
    photos = demo_assets.subject()
    chosen = TrainSettings(steps=steps, background_steps=0, batch_size=batch, resolution=resolution, views=2,
                           **settings)  # fmt: skip
    with torch.inference_mode(False), deterministic():
        watcher = _InTurns(bare(host, batch, resolution), stop_after)
        run = TrainingRun(host, photos.with_photos(photos.photos[:4]), chosen, None, watcher)
        with host.training(batch, resolution) as anew, suppress(_Enough):
            if anew:
                raise RuntimeError(f"This device has no room for a step at {resolution} px without checkpointing.")
            watcher.begin()
            run.learn_subject(0)
        draws = run.measuring.draws(run.views, 2, 32)
        with host.training(batch, resolution):
            run.measuring.losses(run.views, draws, run.backgrounds, "subject", run.history)
            began = now()
            run.measuring.losses(run.views, draws, run.backgrounds, "subject", run.history)
            measuring = now() - began
    ratio, ours, other = watcher.ratio()
    shared_out = measuring / run.measuring.every(400, draws)
    return {"over_bare": ratio, "seconds": ours, "bare_seconds": other,
            "with_measuring": ratio * (1 + shared_out / ours), "measuring_seconds": measuring}  # fmt: skip


def bare(host: Any, batch: int, resolution: int) -> Callable[[], None]:
    """A forward and backward of the host's U-Net, with the gradient to the context only. To be called in training()."""
    from ...nodes.host.model import _differentiable_attention

    base = host.patcher.model
    channels, side = base.latent_format.latent_channels, resolution // 8
    noisy = torch.randn(batch, channels, side, side, device=host.device)
    context = torch.randn(batch, 77, sum(host.widths.values()), device=host.device, requires_grad=True)
    sigma = torch.full((batch,), 1.0, device=host.device)
    extra = {"y": torch.randn(batch, base.adm_channels, device=host.device)} if base.adm_channels else {}

    def step() -> None:
        options = {"optimized_attention_override": _differentiable_attention}
        out = base.apply_model(noisy, sigma, c_crossattn=context, transformer_options=options, **extra)
        out.square().mean().backward()
        context.grad = None

    return step


def full_size_host(kind: str, kept: Path | None = None) -> Any:
    """A HostModel of full size with random weights, by the stock loader. kept: a folder where its file stays."""
    checkpoints.import_host()
    import comfy.sd

    from ...nodes.host.model import HostModel

    with tempfile.TemporaryDirectory() as folder:
        path = (kept or Path(folder)) / f"{kind}.safetensors"
        if not path.is_file():
            checkpoints.write(kind, path)
        with torch.inference_mode():
            model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(path))
            host = HostModel(model, clip, vae)
    return host


def sampling_over_stock(host: Any, steps: int, resolution: int, rounds: int) -> dict[str, float]:
    """Seconds of a picture under a NeTI concept in the host's sampler, encoding included, and of the stock one.

    Also of the next picture of the same prompt, for which the host keeps the patched MODEL and with it the contexts.
    """
    import comfy.sample

    from ...nodes.host.sampling import conditioning, prompted
    from ...training.concept import Concept
    from ...training.representations import build

    word = host.words("cup")
    subject = build("NeTI", {}, word, host.layers, 0)
    plain = {k: v.detach() for k, v in subject.plain().items()}
    concept = Concept(plain, "cup", {}, "NeTI", subject.state_dict())
    channels = host.patcher.get_model_object("latent_format").latent_channels
    blank = torch.zeros(1, channels, resolution // 8, resolution // 8)
    taken: dict[str, list[float]] = {"neti": [], "next": [], "stock": []}
    prompt = "a photo of a <subject> on a beach"
    with torch.inference_mode():
        nothing = conditioning(host.clip, "", None)

        def paint(model: Any, positive: list, seed: int) -> Tensor:
            return comfy.sample.sample(
                model, comfy.sample.prepare_noise(blank, seed), steps, 7.0, "euler", "normal", positive, nothing,
                blank, seed=seed, disable_pbar=True,
            )  # fmt: skip

        for seed in range(rounds + 1):
            kept: tuple = ()
            for name in taken:
                began = now()
                if name == "neti":
                    kept = prompted(host.patcher, host.clip, prompt, concept)
                    paint(*kept, seed)
                elif name == "next":
                    paint(*kept, seed)
                else:
                    paint(host.patcher, conditioning(host.clip, prompt, concept), seed)
                taken[name].append(now() - began)
    neti, again, stock = (float(np.median(of[1:])) for of in taken.values())
    return {"over_stock": neti / stock, "next_over_stock": again / stock, "seconds": neti, "stock_seconds": stock}
