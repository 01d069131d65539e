"""Textual Inversion as the diffusers script does it, on the same weights: whole table in AdamW, VAE at each step."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...training import demo_assets
from ...training.device import deterministic
from ...training.objective import Part, fixed_draws, losses_in_turn
from ...training.photos import SubjectSet
from ...training.run import TrainingRun
from ...training.settings import TrainSettings
from ...training.views import make_views, view
from ...training.watcher import Silent

_EVERY = 10  # steps between two looks at the held-out loss


class Script:
    """One new token beside the vocabulary, learnt as huggingface's textual_inversion.py does: batch of random crops,
    each encoded at each step; one prompt a picture; AdamW over the embedding table; the other rows put back after.
    """

    def __init__(self, pipeline: Any, photos: SubjectSet, batch: int, resolution: int, rate: float, seed: int = 0):
        self.pipe, self.photos, self.batch, self.side = pipeline, photos, batch, resolution
        self.tokenizer, self.encoder = pipeline.tokenizer, pipeline.text_encoder
        self.table = self.encoder.get_input_embeddings().weight
        self.device, self.dtype = self.table.device, next(pipeline.unet.parameters()).dtype
        for module in (pipeline.unet, pipeline.vae, self.encoder):
            module.requires_grad_(False)
        self.table.requires_grad_(True)
        self.word = self.tokenizer(photos.class_word, add_special_tokens=False)["input_ids"][0]
        self.token = len(self.tokenizer) - 3  # a row that no prompt here uses stands for the new token
        self.before = self.table.detach().clone()
        with torch.no_grad():
            self.table[self.token] = self.table[self.word]
        self.optimiser = torch.optim.AdamW([self.table], lr=rate, weight_decay=1e-2)
        self.generator = torch.Generator().manual_seed(seed)
        self.alphas = pipeline.scheduler.alphas_cumprod.float().to(self.device)
        self.predicts_velocity = pipeline.scheduler.config.prediction_type == "v_prediction"

    def step(self) -> float:
        """One step; its loss."""
        pick = torch.randint(len(self.photos.photos), (self.batch,), generator=self.generator)
        images = torch.stack([view(self.photos.photos[int(i)], self.side, 1.0, False, self.generator)[0] for i in pick])
        with torch.no_grad():
            encoded = self.pipe.vae.encode((images * 2 - 1).to(self.device, self.dtype))
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.sample()
            latents = latents.float() * self.pipe.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=self.generator).to(self.device)
        timestep = torch.randint(len(self.alphas), (self.batch,), generator=self.generator).to(self.device)
        alpha = self.alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        ids = self.tokenizer("a photo of a", padding="max_length", max_length=77)["input_ids"]
        ids[5:6], ids[6] = [self.token], self.tokenizer.eos_token_id
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            tokens = self.encoder(torch.tensor([ids] * self.batch, device=self.device))[0].to(self.dtype)
            output = self.pipe.unet(noisy.to(self.dtype), timestep, encoder_hidden_states=tokens).sample
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents if self.predicts_velocity else noise
        value = F.mse_loss(output.float(), target)
        value.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        others = torch.ones(len(self.table), dtype=torch.bool, device=self.device)
        others[self.token] = False
        with torch.no_grad():
            self.table[others] = self.before[others]
        return float(value.detach())

    @property
    def vector(self) -> torch.Tensor:
        """The learnt row [1, D]."""
        return self.table[self.token : self.token + 1].detach().clone()


def against_script(host: Any, batch: int = 8, steps: int = 300) -> dict[str, float]:
    """Steps a second of both, and the time in which each comes to the script's lowest held-out loss.

    The loss is that of the subject's pixels in photos that neither has seen, at fixed noise and timesteps, under a
    prompt without a background; looking at it is not counted.
    """
    from ...backend.demo import pipeline

    photos = demo_assets.subject()
    train, unseen = photos.with_photos(photos.photos[4:]), photos.with_photos(photos.photos[:4])
    settings = TrainSettings(steps=200, background_steps=100, batch_size=batch, resolution=64, vectors=3, zoom=1.2)
    with torch.inference_mode(False), deterministic():
        with torch.no_grad():
            views = make_views(host, unseen, 64, 2, 1.0, False, 0)
        draws = fixed_draws(host, views, 48, 24, 0)

        def held_out(subject: Any) -> float:
            with torch.no_grad():
                return float(losses_in_turn(host, [Part(views, d, subject, (), 1.0, "subject") for d in draws]).mean())

        diffusers = pipeline().to(host.device)
        script = Script(diffusers, train, batch, 64, 5e-4 * batch)  # the script's rate, scaled by the batch as it does
        with host.training(batch, 64):
            theirs, seconds = _race(script.step, lambda: held_out({"l": script.vector}), steps)
        ours, our_seconds = _our_race(host, train, settings, held_out)
    goal = min(value for _, value in theirs)
    their_time = next(t for t, value in theirs if value <= goal)
    our_time = next((t for t, value in ours if value <= goal), float("nan"))
    return {
        "steps_over_diffusers": float(np.median(seconds) / np.median(our_seconds)),
        "time_to_equal_loss_over_diffusers": our_time / their_time,
        "diffusers.step_seconds": float(np.median(seconds)), "ours.step_seconds": float(np.median(our_seconds)),
        "diffusers.lowest_held_out": goal, "diffusers.seconds_to_it": their_time, "ours.seconds_to_it": our_time,
        "ours.lowest_held_out": min(value for _, value in ours),
    }  # fmt: skip


def _race(step: Any, look: Any, steps: int) -> tuple[list[tuple[float, float]], list[float]]:
    """(seconds so far, held-out loss) now and then, and the seconds of each step."""
    seen, taken, total = [], [], 0.0
    for number in range(1, steps + 1):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
        total += taken[-1]
        if number % _EVERY == 0:
            seen.append((total, look()))
    return seen, taken


def _our_race(host: Any, train: SubjectSet, settings: TrainSettings, held_out: Any) -> tuple[list, list[float]]:
    """The same for our training, with its encoding and both of its phases in the time."""
    seen: list[tuple[float, float]] = []
    taken: list[float] = []

    class Look(Silent):
        def __init__(self) -> None:
            self.last, self.total = time.perf_counter(), 0.0

        def step(self, done: int, total: int, value: float, phase: str) -> None:
            """Time until here, then a look that does not count."""
            spent = time.perf_counter() - self.last
            self.total += spent
            taken.append(spent)
            if phase == "subject" and done % _EVERY == 0:
                seen.append((self.total, held_out(run.representation)))
            self.last = time.perf_counter()

    look = Look()
    run = TrainingRun(host, train, settings, None, look)
    with host.training(settings.batch_size, settings.resolution):
        run.learn_background()
        run.learn_subject(0)
    return seen, taken
