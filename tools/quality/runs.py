"""One run: train, paint, read; each kept on disk, so that a benchmark can be cut off and taken up again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...attractor import raw_masks
from ...training.demo_assets import ASSETS
from ..checkpoints import import_host
from ..host import ROOT
from ..judge import READS, WEIGHTS, load
from ..models import fetch_u2netp
from .baselines import train_baseline
from .cases import Case
from .masks import overlap, with_masks
from .methods import Method
from .trials import train_trial

CACHE = ROOT / ".cache" / "quality"
SAMPLER = {"steps": 10, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"}
PAINTED_TOGETHER = 20  # pictures in a batch
BORDER = 8  # pixels at the top, left and right that count as background


@dataclass(frozen=True)
class Job:
    """A method on a case with a training seed, painted with `pictures` seeds a prompt."""

    case: Case
    method: Method
    seed: int
    pictures: int = 4

    @property
    def key(self) -> str:
        """Hash over all that the result depends on: settings, photos, prompts, models and code."""
        method = asdict(self.method)
        del method["name"], method["about"]
        photos = hashlib.sha256()
        for photo in (p for part in self.case.photos for p in part):
            photos.update(photo.image.tobytes() + photo.mask.tobytes())
        facts = [self.case.name, photos.hexdigest(), method, self.seed if self.method.train != "none" else 0,
                 self.pictures, SAMPLER, BORDER, [p.text for p in self.case.prompts], _sources()]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


@cache
def _sources() -> str:
    """Hash of the models that are used and of the code that trains, paints and reads."""
    digest = hashlib.sha256()
    models = [ASSETS / "checkpoint.safetensors", WEIGHTS, ASSETS / "clip" / "model.safetensors", fetch_u2netp()]
    code = [*ROOT.glob("training/*.py"), *ROOT.glob("attractor/*.py"), *ROOT.glob("nodes/host/*.py"),
            *(ROOT / "metrics" / f"{name}.py" for name in ("encoders", "preprocessing", "scores")),
            ROOT / "tools" / "judge.py",
            *(Path(__file__).with_name(f"{name}.py") for name in ("baselines", "masks", "runs", "trials"))]  # fmt: skip
    for path in (*models, *sorted(code)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_all(jobs: Sequence[Job], workers: int, say: Callable[[str], None] = print) -> list[dict]:
    """Results of the jobs in order; those that are kept from an earlier call are read."""
    CACHE.mkdir(parents=True, exist_ok=True)
    distinct = {job.key: job for job in jobs}
    missing = [job for key, job in distinct.items() if not (CACHE / f"{key}.json").exists()]
    began = time.monotonic()
    if missing:
        say(f"{len(distinct) - len(missing)} of {len(distinct)} runs are kept from before, {len(missing)} to do")
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_prepare) as pool:
            waiting = {pool.submit(run, job): job for job in missing}
            for done, future in enumerate(as_completed(waiting), 1):
                if future.exception():
                    pool.shutdown(cancel_futures=True)
                    job = waiting[future]
                    raise RuntimeError(f"{job.case.name}, {job.method.name}, seed {job.seed}") from future.exception()
                if done % 10 == 0 or done == len(missing):
                    each = (time.monotonic() - began) / done
                    left = each * (len(missing) - done) / 60
                    say(f"{done} of {len(missing)}, {each:.1f} s each, {left:.0f} min left")
    return [json.loads((CACHE / f"{job.key}.json").read_text(encoding="utf-8")) for job in jobs]


def pictures_of(job: Job) -> np.ndarray:
    """The pictures of a finished run, uint8 [prompts, seeds, 64, 64, 3]."""
    with np.load(CACHE / f"{job.key}.npz") as stored:
        return stored["pictures"]


def _prepare() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    import_host()
    with torch.inference_mode():
        _host_model()  # so that no run is timed with the loading in it


@cache
def _demo() -> tuple[Any, Any, Any]:
    from ...nodes.host import demo

    return demo.load()


@cache
def _host_model() -> Any:
    from ...nodes.host.model import HostModel

    return HostModel(*_demo())


@cache
def _encoder() -> Any:
    from ...metrics.encoders import load_encoder

    return load_encoder("demo-clip", [])


@cache
def _judge() -> Any:
    return load()


def run(job: Job) -> None:
    """Do one job and write its result beside its pictures."""
    with torch.inference_mode():
        subject, held_out = job.case.sets()
        raw_masks.kept.clear()  # or a run would be timed without the masks that another one had made
        began = time.perf_counter()
        given = with_masks(subject, job.method.masks, _host_model())
        concept, card = _trained(job, given)
        seconds = time.perf_counter() - began
        images = _paint(job, concept)
    result = {
        "case": job.case.name, "method": job.method.name, "seed": job.seed, "seconds": round(seconds, 2), **card,
        "mask_iou": round(overlap(given, subject), 4), **_read(images),
        **_similar(images, given, held_out, job.pictures),
    }  # fmt: skip
    stored = (images.view(len(job.case.prompts), job.pictures, *images.shape[1:]).movedim(2, -1) * 255 + 0.5).byte()
    part = CACHE / f"{job.key}.part.npz"
    np.savez_compressed(part, pictures=stored.numpy())
    part.rename(CACHE / f"{job.key}.npz")
    text = CACHE / f"{job.key}.part"
    text.write_text(json.dumps(result), encoding="utf-8")
    text.rename(CACHE / f"{job.key}.json")


def _trained(job: Job, given: Any) -> tuple[Any, dict]:
    """The concept of a job (None for the floor), and what its training says of itself."""
    method = job.method
    if method.train == "none":
        return None, {"steps": 0}
    if method.baseline is not None:
        return train_baseline(_host_model(), given, method.baseline, job.seed), {"steps": method.baseline.steps}
    from ...training.loop import train
    from ...training.settings import TrainSettings

    settings = TrainSettings(**method.settings, seed=job.seed)
    if method.trial is not None:
        concept, history = train_trial(_host_model(), given, settings, method.trial)
    else:
        concept, history = train(_host_model(), given, settings)
    steps = history.best_step + history.background_steps
    return concept, {"steps": steps, "background_steps": history.background_steps}


def _paint(job: Job, concept: Any) -> Tensor:
    """Every prompt with every picture seed, several prompts in one batch: [P * S, 3, 64, 64] in [0, 1]."""
    import comfy.sample

    from ...nodes.host.sampling import conditioning

    model, clip, vae = _demo()
    if concept is not None and concept.kind != "TI":
        return _paint_layered(job, concept)
    how, word = SAMPLER, job.case.word
    encoded = [conditioning(clip, p.text, concept, word)[0][0] for p in job.case.prompts]
    nothing = conditioning(clip, "", None)[0][0]
    pairs = [(tokens, seed) for tokens in encoded for seed in range(1, job.pictures + 1)]
    blank = torch.zeros(1, model.get_model_object("latent_format").latent_channels, 8, 8)
    parts = []
    for start in range(0, len(pairs), PAINTED_TOGETHER):
        chunk = pairs[start : start + PAINTED_TOGETHER]
        noise = torch.cat([comfy.sample.prepare_noise(blank, seed) for _, seed in chunk])
        positive, negative = [[torch.cat([t for t, _ in chunk]), {}]], [[nothing.expand(len(chunk), -1, -1), {}]]
        latents = comfy.sample.sample(
            model, noise, how["steps"], how["cfg"], how["sampler_name"], how["scheduler"], positive, negative,
            blank.expand(len(chunk), -1, -1, -1), seed=0, disable_pbar=True,
        )  # fmt: skip
        parts.append(vae.decode(latents).movedim(-1, 1).float().clamp(0, 1))
    return torch.cat(parts)


def _paint_layered(job: Job, concept: Any) -> Tensor:
    """The same, one prompt at a time, for each has a MODEL of its own."""
    import comfy.sample

    from ...nodes.host.sampling import conditioning, prompted

    model, clip, vae = _demo()
    how, nothing = SAMPLER, conditioning(clip, "", None)
    blank = torch.zeros(job.pictures, model.get_model_object("latent_format").latent_channels, 8, 8)
    noise = torch.cat([comfy.sample.prepare_noise(blank[:1], seed) for seed in range(1, job.pictures + 1)])
    parts = []
    for prompt in job.case.prompts:
        patched, positive = prompted(model, clip, prompt.text, concept, job.case.word)
        latents = comfy.sample.sample(
            patched, noise, how["steps"], how["cfg"], how["sampler_name"], how["scheduler"], positive, nothing, blank,
            seed=0, disable_pbar=True,
        )  # fmt: skip
        parts.append(vae.decode(latents).movedim(-1, 1).float().clamp(0, 1))
    return torch.cat(parts)


def _read(images: Tensor) -> dict:
    readings = _judge().read(images)
    return {"read": {name: readings.names(name) for name in READS}, "border": border(images).mul(255).tolist()}


def border(images: Tensor) -> Tensor:
    """Mean colour [B, 3] of the top, left and right border of images [B, 3, H, W]."""
    parts = [images[:, :, :BORDER].flatten(2), images[..., :BORDER].flatten(2), images[..., -BORDER:].flatten(2)]
    return torch.cat(parts, -1).mean(-1)


def _similar(images: Tensor, train: Any, held_out: Any, pictures: int) -> dict:
    """Similarity to the photos of both splits [P * S], and the mean distance between seeds of a prompt."""
    from ...metrics.scores import photo_features

    encoder = _encoder()
    features = encoder.images(images)
    found = {"to_train": (features @ photo_features(encoder, train.photos).T).mean(1).tolist(),
             "to_held_out": (features @ photo_features(encoder, held_out.photos).T).mean(1).tolist()}  # fmt: skip
    groups = features.view(-1, pictures, features.shape[-1])
    same = (groups @ groups.transpose(1, 2)).sum((1, 2)) - pictures
    return {**found, "diversity": float(1 - (same / max(1, pictures * (pictures - 1))).mean())}
