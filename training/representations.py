"""How a subject is stored: vectors, vectors for each layer of the U-Net, or a small network of timestep and layer.

A representation gives the vectors that stand in the place of the subject's word. It knows nothing of masks, background
tokens or losses, and any of them is trained by the same loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attractor.errors import AttractorError
from .device import seeded
from .model import Embedding
from .starts import held

SD15_TABLE_SCALE = 0.0139  # standard deviation of SD1.5's token embeddings, to which published rates refer
_COARSE_SHARE = 0.5  # part of XTI's steps in which all layers share their vectors
_LAYER_RATE = 1 / 3  # of the shared vectors' rate
_ANCHORS = 10  # of NeTI's positional encoding, over the timesteps
_FREQUENCIES = 1024
_SIGMA_TIMESTEP, _SIGMA_LAYER = 0.03, 2.0
_HIDDEN = 128
_DROPOUT = 0.5
_NETI_RATE = 1.6  # 8e-3 where the setting is Textual Inversion's 5e-3


@dataclass(frozen=True)
class Words:
    """What stands in the place of the subject's word.

    vectors: text-encoder key to [S, L, n, D], with S = 1 where they are the same at all timesteps and L = 1 where they
    are the same in all layers. bypass: key to [S, L, D], what NeTI adds to the encoder's output, or None.
    """

    vectors: Embedding
    bypass: Embedding | None = None

    @classmethod
    def same(cls, embedding: Embedding) -> Words:
        """Vectors [n, D] for all timesteps and layers."""
        return cls({key: value[None, None] for key, value in embedding.items()})


class Representation(nn.Module, ABC):
    """Timesteps [S] to Words. `layers`: cross-attention layers of the U-Net that are told apart, 1 for none.

    generator: of everything random in training, on the CPU.
    """

    kind: str
    layers: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None
        self.norms_held: Embedding | None = None  # lengths [n, 1] that its vectors keep in training

    @abstractmethod
    def forward(self, timestep: Tensor) -> Words:
        """The subject's words at these timesteps [S], integers or fractions of them."""

    @abstractmethod
    def plain(self) -> Embedding:
        """One set of vectors [n, D] that stands for it where only an embedding is understood."""

    def begin(self, step: int, steps: int) -> None:
        """Is told before each step of a training, counted from 1."""

    @torch.no_grad()
    def hold_norms(self) -> None:
        """Is told after each step of a training to bring its vectors back to the lengths that they keep."""

    @abstractmethod
    def groups(self, learning_rate: float, scale: Mapping[str, float]) -> list[dict]:
        """Parameters with their rates. learning_rate: for embeddings of SD1.5's scale; scale: the tables' own."""


class TextualInversion(Representation):
    """n vectors for the word (Gal et al., arXiv 2208.01618)."""

    kind = "TI"

    def __init__(self, vectors: Embedding):
        super().__init__()
        self.vectors = _parameters(vectors)

    def forward(self, timestep: Tensor) -> Words:
        """The same at all timesteps and layers."""
        return Words.same(self.plain())

    def plain(self) -> Embedding:
        """The vectors themselves."""
        return dict(self.vectors.items())

    @torch.no_grad()
    def hold_norms(self) -> None:
        """Of each vector."""
        for key, norms in (self.norms_held or {}).items():
            self.vectors[key].copy_(held(self.vectors[key], norms))

    def groups(self, learning_rate: float, scale: Mapping[str, float]) -> list[dict]:
        """A rate for each text encoder, in units of its table."""
        return [{"params": [v], "lr": learning_rate * scale[k] / SD15_TABLE_SCALE} for k, v in self.vectors.items()]


class ExtendedTextualInversion(Representation):
    """n vectors for each cross-attention layer: XTI in the space P+ (Voynov et al., arXiv 2303.09522).

    All layers share one set in the first half of the training; from there on each learns its difference to it, at a
    third of the rate. The shared set is the plain embedding.
    """

    kind = "XTI"

    def __init__(self, vectors: Embedding, layers: int):
        super().__init__()
        self.layers = layers
        self.coarse = _parameters(vectors)
        self.offsets = _parameters({k: v.new_zeros(layers, *v.shape) for k, v in vectors.items()})
        self.apart: Tensor
        self.register_buffer("apart", torch.tensor(False))

    def begin(self, step: int, steps: int) -> None:
        """From the middle on the layers part."""
        apart = step > round(steps * _COARSE_SHARE)
        self.apart.fill_(apart)
        for coarse, offset in zip(self.coarse.values(), self.offsets.values(), strict=True):
            coarse.requires_grad_(not apart)
            offset.requires_grad_(apart)

    def forward(self, timestep: Tensor) -> Words:
        """The same at all timesteps."""
        if not self.apart:
            return Words.same(self.plain())
        return Words({key: (self.coarse[key] + offset)[None] for key, offset in self.offsets.items()})

    def plain(self) -> Embedding:
        """The vectors that all layers shared."""
        return dict(self.coarse.items())

    @torch.no_grad()
    def hold_norms(self) -> None:
        """Of the shared vectors, then of each layer's."""
        for key, norms in (self.norms_held or {}).items():
            if self.apart:
                moved = held(self.coarse[key] + self.offsets[key], norms)
                self.offsets[key].copy_(moved - self.coarse[key])
            else:
                self.coarse[key].copy_(held(self.coarse[key], norms))

    def groups(self, learning_rate: float, scale: Mapping[str, float]) -> list[dict]:
        """The layers' differences at a third of the shared vectors' rate."""
        rate = {key: learning_rate * scale[key] / SD15_TABLE_SCALE for key in self.coarse}
        return [{"params": [v], "lr": rate[k]} for k, v in self.coarse.items()] + [
            {"params": [v], "lr": rate[k] * _LAYER_RATE} for k, v in self.offsets.items()
        ]


class NeuralMapper(Representation):
    """A network of timestep and layer gives a vector and a textual bypass: NeTI (Alaluf et al., arXiv 2305.15391).

    Positional encoding: sin and cos of 1,024 random directions in (t, l), of standard deviations .03 and 2, over their
    norm; a linear layer that starts as that encoding of ten timesteps x all layers; two layers of 128 with LayerNorm
    and LeakyReLU; nested dropout on the second; a linear head for each text encoder that gives vector and bypass. The
    vector is scaled to the norm of the class word's embedding. truncation: how many of the 128 are used at sampling,
    0 for all: fewer give a prompt more to say and keep less of the subject.
    """

    kind = "NeTI"

    def __init__(self, norms: Mapping[str, Tensor], widths: Mapping[str, int], layers: int, seed: int = 0):
        super().__init__()
        self.layers, self.truncation = layers, 0
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(_FREQUENCIES, 2, generator=generator)
        self.directions: Tensor
        self.register_buffer("directions", directions * torch.tensor([_SIGMA_TIMESTEP, _SIGMA_LAYER]))
        self.norms = nn.ParameterDict({k: nn.Parameter(v.float(), requires_grad=False) for k, v in norms.items()})
        with seeded(seed):
            anchors = nn.Linear(2 * _FREQUENCIES, _ANCHORS * layers)
            self.net = nn.Sequential(
                anchors, nn.Linear(_ANCHORS * layers, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.LeakyReLU(),
                nn.Linear(_HIDDEN, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.LeakyReLU(),
            )  # fmt: skip
            self.heads = nn.ModuleDict({key: nn.Linear(_HIDDEN, 2 * width) for key, width in widths.items()})
        with torch.no_grad():
            anchors.weight.copy_(self.encoding(*self._grid(torch.arange(0, 1000, 1000 // _ANCHORS))))

    @torch.no_grad()
    def start_from(self, word: Embedding) -> None:
        """Let the vectors start about the class word's mean [m, D], by the heads' bias.

        The paper starts anywhere of that norm; from here a third of the steps do (docs/notes.md).
        """
        for key, rows in word.items():
            start = F.normalize(rows.mean(0).float(), dim=0).cpu() * rows.shape[-1] ** 0.5
            self.heads[key].load_state_dict({"bias": torch.cat([start, torch.zeros_like(start)])}, strict=False)

    def encoding(self, timestep: Tensor, layer: Tensor) -> Tensor:
        """Positional encoding [N, 2048] of timesteps [N] and layers [N], of norm 1."""
        angles = torch.stack([timestep, layer], dim=1).float() @ self.directions.T
        return F.normalize(torch.cat([angles.sin(), angles.cos()], dim=1), dim=1)

    def _grid(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Every timestep with every layer: two [S * L]."""
        layers = torch.arange(self.layers, device=timestep.device)
        return timestep.repeat_interleave(self.layers), layers.repeat(len(timestep))

    def forward(self, timestep: Tensor) -> Words:
        """One vector and one bypass for each timestep and layer."""
        timestep = timestep.to(self.directions.device)
        hidden = self._truncated(self.net(self.encoding(*self._grid(timestep))))
        vectors, bypass = {}, {}
        for key, head in self.heads.items():
            word, added = head(hidden).unflatten(0, (len(timestep), self.layers)).chunk(2, dim=-1)
            vectors[key] = (F.normalize(word, dim=-1) * self.norms[key])[:, :, None]
            bypass[key] = added
        return Words(vectors, bypass)

    def _truncated(self, hidden: Tensor) -> Tensor:
        """Nested dropout in training (in half of the steps, each row from a random place on); the knob otherwise."""
        if self.training and self.generator is not None:
            if float(torch.rand(1, generator=self.generator)) >= _DROPOUT:
                return hidden
            first = torch.randint(_HIDDEN, (len(hidden), 1), generator=self.generator).to(hidden.device)
        elif 0 < self.truncation < _HIDDEN:
            first = torch.tensor([[self.truncation]], device=hidden.device)
        else:
            return hidden
        return hidden * (torch.arange(_HIDDEN, device=hidden.device) < first)

    @torch.no_grad()
    def plain(self) -> Embedding:
        """The mean vector over timesteps and layers, scaled to the same norm."""
        was, self.training = self.training, False
        words = self(torch.arange(25, 1000, 50)).vectors
        self.training = was
        return {k: F.normalize(v.mean((0, 1)), dim=-1) * self.norms[k] for k, v in words.items()}

    def groups(self, learning_rate: float, scale: Mapping[str, float]) -> list[dict]:
        """One rate for the network, whatever the tables' scale: its vectors are scaled at the end."""
        weights = [*self.net.parameters(), *self.heads.parameters()]
        return [{"params": weights, "lr": learning_rate * _NETI_RATE}]


def build(kind: str, start: Embedding, word: Embedding, layers: int, seed: int) -> Representation:
    """A representation before training, on the CPU.

    start: vectors [n, D] of TI and XTI; word: those of the class word [m, D].
    """
    start, word = ({key: rows.cpu() for key, rows in of.items()} for of in (start, word))
    if kind == "TI":
        return TextualInversion(start)
    if kind == "XTI":
        return ExtendedTextualInversion(start, layers)
    norms = {key: rows.norm(dim=-1).mean() for key, rows in word.items()}
    mapper = NeuralMapper(norms, {key: rows.shape[-1] for key, rows in word.items()}, layers, seed)
    mapper.start_from(word)
    return mapper


def restore(kind: str, state: Mapping[str, Tensor]) -> Representation:
    """The representation that a state dict is of, for sampling. Raises AttractorError when it is of none."""
    try:
        found = _empty(kind, state)
        found.load_state_dict(dict(state))
    except (KeyError, RuntimeError, ValueError, IndexError, StopIteration) as error:
        why = str(error).splitlines()[0]
        raise AttractorError(f"its {kind} part is damaged or of another version ({why})") from error
    return found.eval().requires_grad_(False)


def _empty(kind: str, state: Mapping[str, Tensor]) -> Representation:
    if kind == "TI":
        return TextualInversion({k.split(".")[1]: torch.empty_like(v) for k, v in state.items()})
    if kind == "XTI":
        coarse = {k.split(".")[1]: torch.empty_like(v) for k, v in state.items() if k.startswith("coarse.")}
        return ExtendedTextualInversion(coarse, next(len(v) for k, v in state.items() if k.startswith("offsets.")))
    if kind == "NeTI":
        widths = {k.split(".")[1]: len(v) // 2 for k, v in state.items() if k.startswith("heads.") and v.ndim == 2}
        norms = {key: torch.empty_like(state[f"norms.{key}"]) for key in widths}
        return NeuralMapper(norms, widths, len(state["net.0.weight"]) // _ANCHORS)
    raise ValueError(f"unknown kind {kind!r}")


def _parameters(values: Embedding) -> nn.ParameterDict:
    return nn.ParameterDict({key: nn.Parameter(value.detach().clone()) for key, value in values.items()})
