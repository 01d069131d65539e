"""The rows of the tables: every method with its masks and settings, and what each was tuned over."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from ...training.settings import TrainSettings
from .. import benchmarks
from .baselines import Baseline
from .masks import QUALITIES
from .trials import Trial

RATES = (2.5e-3, 5e-3, 1e-2)
STEPS = (200, 400)  # in all, the background's included
BACKGROUND_SHARE = 1 / 3  # of our steps, at most
REPRESENTATIONS = {"TI": {}, "XTI": {}, "NeTI": {"longer": 3}}  # NeTI's network starts from nothing
SPHERE = 4.0  # radians of a turn for one of AdamW's rate: the published .04 for .01


@dataclass(frozen=True)
class Method:
    """One row. train: "none" (the class word alone), "baseline" or "ours" (then settings are TrainSettings').

    masks: quality of the masks that the training gets (see masks.py). about: what it is, for the table.
    """

    name: str
    about: str
    train: str
    masks: str = "none"
    baseline: Baseline | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    trial: Trial | None = None


OURS = {"steps": 267, "batch_size": 4, "learning_rate": 5e-3, "vectors": 3, "resolution": 64, "zoom": 1.2,
        "background_scope": "shared", "background_vectors": 2, "background_steps": 133, "strength": 1.0}  # fmt: skip

TOGETHER = "both learnt together, masked loss"
FLOOR = Method("floor", "the class word alone", "none")
TI_PUBLISHED = Method(
    "ti_published", "Textual Inversion as published (1,500 steps)", "baseline",
    # base rate 5e-3, scaled by the batch of 2; one vector from the class word, constant rate, mirrored views
    baseline=Baseline(steps=1500, learning_rate=1e-2, batch_size=2, vectors=1, cosine=False, weight_decay=1e-2,
                      zoom=1.0, flip=True),
)  # fmt: skip
TUNABLE = (
    Method("ti_tuned", "Textual Inversion, tuned", "baseline", baseline=Baseline(400, 5e-3)),
    Method("cross_init", "TI + Cross Initialization", "baseline",
           baseline=Baseline(400, 5e-3, start="output", pull=1e-5)),
    Method("directional", "Directional TI", "baseline",
           baseline=Baseline(400, 2e-2, optimiser="sphere", pull=1e-4, cosine=False)),
    Method("soft_masks", "TI + OneTrainer's soft masks", "baseline", masks="own",
           baseline=Baseline(400, 5e-3, soft_masks=True)),
    Method("ours", "TI + attractor", "ours", masks="own", settings=OURS),
)  # fmt: skip


def tuned(method: Method, learning_rate: float, steps: int) -> Method:
    """The method at another point of its grid; ours spends a part of the steps on the background."""
    if method.baseline is not None:
        rate = learning_rate * (SPHERE if method.baseline.optimiser == "sphere" else 1)
        return replace(method, baseline=replace(method.baseline, learning_rate=rate, steps=steps))
    background = round(steps * BACKGROUND_SHARE)
    change = {"learning_rate": learning_rate, "steps": steps - background, "background_steps": background}
    return replace(method, settings={**method.settings, **change})


def grid(method: Method) -> list[Method]:
    """The settings that a method is tuned over: the same number for every method."""
    return [tuned(method, rate, steps) for rate in RATES for steps in STEPS]


def recorded() -> dict[str, Method]:
    """The tuned methods of the last record."""
    record = json.loads((benchmarks.FOLDER / "quality.json").read_text(encoding="utf-8"))
    found = {}
    for method in TUNABLE:
        how = record["tuned"][method.name]
        own = {"baseline": Baseline(**how)} if method.baseline else {"settings": how}
        found[method.name] = replace(method, **own)
    return found


def main_table(best: dict[str, Method]) -> list[Method]:
    """All rows of the main table, given the tuned methods by name."""
    rows = [FLOOR, TI_PUBLISHED, *(best.get(m.name, m) for m in TUNABLE)]
    nearer = "TI, tuned, views nearer by masks"
    rows.insert(3, replace(rows[2], name="ti_nearer", about=nearer, masks="own"))
    ours = best.get("ours", TUNABLE[-1])
    rows.insert(-1, replace(mask_alone(ours), name="mask_only", about="TI, loss weighted by masks alone"))
    about = "TI + attractor, true masks (upper bound)"
    return [*rows, replace(ours, name="ours_true_masks", about=about, masks="true")]


def mask_alone(ours: Method) -> Method:
    """Ours without background tokens, in as many steps as ours has in all."""
    steps = ours.settings["steps"] + ours.settings["background_steps"]
    return replace(ours, settings={**ours.settings, "background_scope": "none", "steps": steps})


def mask_table(best: dict[str, Method]) -> list[Method]:
    """Ours beside the mask-weighted loss alone, for every quality of mask."""
    ours = best.get("ours", TUNABLE[-1])
    alone = mask_alone(ours)
    pair = ((alone, "mask_only", "mask-weighted loss alone"), (ours, "ours", "ours"))
    return [
        replace(method, name=f"{word}.{quality}", about=f"{about}, {quality} masks", masks=quality)
        for quality in QUALITIES
        for method, word, about in pair
    ]


def representation_table(best: dict[str, Method]) -> list[Method]:
    """Every representation in our loop with and without the attractor, in the same number of steps."""
    ours = best.get("ours", TUNABLE[-1])
    total = ours.settings["steps"] + ours.settings["background_steps"]
    plain = {"background_scope": "none", "strength": 0.0}
    found = []
    for kind, change in REPRESENTATIONS.items():
        steps = round(total * change.get("longer", 1))
        background = round(steps * BACKGROUND_SHARE)
        own = {**ours.settings, "representation": kind}
        with_attractor = {**own, "steps": steps - background, "background_steps": background}
        found.append(replace(ours, name=f"{kind}.plain", about=kind, settings={**own, **plain, "steps": steps}))
        found.append(replace(ours, name=f"{kind}.attractor", about=f"{kind} + attractor", settings=with_attractor))
    return found


def option_table(best: dict[str, Method]) -> list[Method]:
    """Ours with each of the options of training that are off by default."""
    ours = best.get("ours", TUNABLE[-1])
    changes: dict[str, dict[str, Any]] = {
        "constant rate": {"schedule": "constant"},
        "running mean, decay .98": {"ema": 0.98},
        "min-SNR, gamma 5": {"min_snr": 5.0},
        "timesteps toward noise": {"timestep_sampling": "toward noise"},
        "colours changed, .5": {"colour": 0.5},
        "backgrounds blurred": {"background_change": "blur"},
        "backgrounds swapped": {"background_change": "swap"},
        "backgrounds swapped, no tokens": {"background_change": "swap", "background_scope": "none"},
        "context kept, weight .1": {"keeps_context": 0.1},
        "context kept, weight 1": {"keeps_context": 1.0},
    }
    return [replace(ours, name=name, about=name, settings={**ours.settings, **change})
            for name, change in changes.items()]  # fmt: skip


def relative_table(best: dict[str, Method]) -> list[Method]:
    """Ours with the terms that others have published added to the loss, and a published relative in our loop.

    ConceptPrism (arXiv 2602.19575) has no masks: eight residual tokens a photo learn beside the concept from the start.
    """
    ours = best.get("ours", TUNABLE[-1])
    total = ours.settings["steps"] + ours.settings["background_steps"]
    both = {**ours.settings, "background_steps": 0, "steps": total}
    prism = {**both, "strength": 0.0, "background_scope": "per photo", "background_vectors": 8}
    terms = {
        "gradient routing": Trial(routing=True),
        "contrastive loss, weight .01": Trial(contrast=0.01),
        "contrastive loss, weight .1": Trial(contrast=0.1),
        "cross-attention loss, weight .01": Trial(attention=0.01),
        "cross-attention loss, weight .1": Trial(attention=0.1),
        "ConceptPrism's residual tokens, no masks": Trial(exclusion=0.05),
    }
    settings = {"gradient routing": both, "ConceptPrism's residual tokens, no masks": prism}
    together = replace(ours, name=TOGETHER, about=TOGETHER, settings=both)
    return [together, *(
        replace(ours, name=name, about=name, trial=trial, settings=settings.get(name, ours.settings),
                masks="none" if trial.exclusion else ours.masks)
        for name, trial in terms.items()
    )]  # fmt: skip


def ablation_table(best: dict[str, Method]) -> list[Method]:
    """Ours with one thing changed at a time; what learns both at once gets the steps of both phases."""
    ours = best.get("ours", TUNABLE[-1])
    total = ours.settings["steps"] + ours.settings["background_steps"]
    changes: dict[str, dict[str, Any]] = {
        "no mask in the subject's loss": {"strength": 0.0},
        "half strength": {"strength": 0.5},
        "no background tokens": {"background_scope": "none"},
        "neither (plain TI in our loop)": {"background_scope": "none", "strength": 0.0},
        "background tokens per photo": {"background_scope": "per photo"},
        "one background token": {"background_vectors": 1},
        "four background tokens": {"background_vectors": 4},
        TOGETHER: {"background_steps": 0, "steps": total},
        "both learnt together, no mask": {"background_steps": 0, "steps": total, "strength": 0.0},
        "no zoom": {"zoom": 1.0},
        "more zoom": {"zoom": 1.4},
        "mirrored views": {"flip": True},
        "one vector": {"vectors": 1},
        "six vectors": {"vectors": 6},
        "the node's own settings": {name: getattr(TrainSettings, name) for name in
                                    ("steps", "background_steps", "learning_rate", "vectors", "zoom")},
    }
    trials = {
        "all steps of the first phase": Trial(first_phase="fixed"),
        "length of vectors kept": Trial(norm=True),
        "a photo held out to stop by": Trial(stop_on=1),
        "views no nearer to small subjects": Trial(nearer=False),
    }
    changed = [replace(ours, name=name, about=name, settings={**ours.settings, **change})
               for name, change in changes.items()]  # fmt: skip
    return changed + [replace(ours, name=name, about=name, trial=trial) for name, trial in trials.items()]
