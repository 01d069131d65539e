"""The judge: a small network that reads the factors of the rendered world off a picture.

Trained on renders only (`tools/pretrain/judge.py`), it counts what similarity scores cannot: whether the
item, its colours, its pattern, its badge and the background are those that were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .host import ROOT
from .world import BACKGROUNDS, COLOUR_NAMES, DETAILS, KINDS, PATTERNS, Scene

WEIGHTS = ROOT / "assets" / "demo" / "judge.safetensors"
NO_BADGE = "none"
READS: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "pattern": PATTERNS,
    "colour": COLOUR_NAMES,
    "colour2": COLOUR_NAMES,
    "badge": (*DETAILS, NO_BADGE),
    "badge_colour": (*COLOUR_NAMES, NO_BADGE),
    "background": BACKGROUNDS,
    "background_colour": COLOUR_NAMES,
}


def truth(scene: Scene) -> dict[str, str]:
    """What a perfect reader reads off a render of this scene."""
    item, badge = scene.item, scene.item.detail
    return {
        "kind": item.kind, "pattern": item.pattern, "colour": item.colour, "colour2": item.colour2,
        "badge": badge.shape if badge else NO_BADGE, "badge_colour": badge.colour if badge else NO_BADGE,
        "background": scene.background, "background_colour": scene.background_colour,
    }  # fmt: skip


@dataclass(frozen=True)
class Readings:
    """What was read off a batch: probabilities float32 [B, labels] for every factor of `READS`."""

    probabilities: dict[str, Tensor]

    def names(self, factor: str) -> list[str]:
        """The likeliest label of every picture."""
        return [READS[factor][i] for i in self.probabilities[factor].argmax(1).tolist()]

    def says(self, factor: str, label: str) -> Tensor:
        """Where the likeliest label is this one, bool [B]."""
        return self.probabilities[factor].argmax(1) == READS[factor].index(label)


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def _down(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


class Judge(nn.Module):
    """A convolutional classifier with one head a factor, over the mean and the maximum of an 8 x 8 map."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)):
        super().__init__()
        stem, middle, top = widths
        self.trunk = nn.Sequential(
            _down(3, stem), _Block(stem), _down(stem, middle), _Block(middle), _down(middle, top), _Block(top),
            _Block(top),
        )  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(2 * top, len(labels)) for name, labels in READS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits [B, labels] of every factor for pictures [B, 3, 64, 64] in [0, 1]."""
        x = self.trunk(pictures * 4 - 2)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(x) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Tensor, batch: int = 128) -> Readings:
        """Read pictures [B, 3, 64, 64] in [0, 1]; other sizes raise ValueError."""
        if pictures.shape[1:] != (3, 64, 64):
            raise ValueError(f"the judge reads pictures [B, 3, 64, 64], not {list(pictures.shape)}")
        parts = [self(part.float()) for part in pictures.split(batch)]
        return Readings({name: torch.cat([p[name] for p in parts]).softmax(1) for name in READS})


def load(path: Path = WEIGHTS) -> Judge:
    """The trained judge in evaluation mode. Raises FileNotFoundError if its weights are not there."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    return judge.eval()
