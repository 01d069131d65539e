"""What a user can set about training; a node's inputs are these fields."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..attractor.errors import AttractorError
from .schedules import SCHEDULES, TIMESTEPS
from .starts import NORMS, STARTS

REPRESENTATIONS = ("TI", "XTI", "NeTI")
BACKGROUND_SCOPES = ("shared", "per photo", "none", "per shoot")
BACKGROUND_CHANGES = ("none", "blur", "swap")
CHOICES = {
    "representation": REPRESENTATIONS, "background_scope": BACKGROUND_SCOPES, "schedule": SCHEDULES,
    "timestep_sampling": TIMESTEPS, "background_change": BACKGROUND_CHANGES, "start": STARTS, "norm": NORMS,
}  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run, written to the run card as they are.

    steps: optimiser steps of the subject. batch_size: views a step. learning_rate: AdamW's, for embeddings of
    SD1.5's scale; it is rescaled to the text encoder's own embedding table. vectors: number n of the subject's
    vectors. resolution: side in pixels of the training views. strength: attractor strength in [0, 1].
    background_scope: one set of background tokens for all photos, one for each photo or for each shoot, or none.
    background_vectors: number of background tokens in a set. background_steps: at most so many steps for the
    background alone, first; it ends earlier when the tokens explain it. zoom: largest random magnification of a view, 1
    for none. flip: mirror half of the views. views: views of a photo that are encoded. seed: of everything random.
    representation: vectors (TI), vectors for each layer of the U-Net (XTI), or a network of timestep and layer (NeTI),
    which has one vector whatever `vectors` says. checkpointing: compute the U-Net's activations anew in backward, which
    takes less memory and more time; where memory runs out that is done anyway. schedule: of the learning rate after its
    warm-up. ema: decay of a running mean of the representation, which is kept in its place; 0 for none. min_snr: gamma
    of the min-SNR weights, 0 for none, 5 in its paper. timestep_sampling: see schedules.draw_timesteps. colour: largest
    random change of a view's colours, 0 to 1. background_change: what happens to the background of half of the views,
    by the masks. keeps_context: weight of the loss that keeps the other words of a prompt where they stand beside the
    class word. start, norm: where the vectors start, and what holds their lengths; see starts.
    """

    steps: int = 400
    batch_size: int = 4
    learning_rate: float = 5e-3
    vectors: int = 4
    resolution: int = 512
    strength: float = 1.0
    background_scope: str = "shared"
    background_vectors: int = 2
    background_steps: int = 200
    zoom: float = 1.3
    flip: bool = False
    views: int = 8
    seed: int = 0
    representation: str = "TI"
    checkpointing: bool = False
    schedule: str = "cosine"
    ema: float = 0.0
    min_snr: float = 0.0
    timestep_sampling: str = "uniform"
    colour: float = 0.0
    background_change: str = "none"
    keeps_context: float = 0.0
    start: str = "class word"
    norm: str = "free"

    def __post_init__(self) -> None:
        """Raise AttractorError, naming the input, for a value that cannot be."""
        for name, low, high in (
            ("steps", 1, 100_000), ("batch_size", 1, 256), ("vectors", 1, 32), ("background_vectors", 1, 32),
            ("background_steps", 0, 100_000), ("views", 1, 256), ("resolution", 64, 2048),
            ("learning_rate", 1e-7, 10), ("strength", 0, 1), ("zoom", 1, 4),
            ("ema", 0, 0.9999), ("min_snr", 0, 1000), ("colour", 0, 1), ("keeps_context", 0, 1000),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise AttractorError(f"{name} is {value:g}: it lies between {low:g} and {high:g}.")
        if self.resolution % 64:
            raise AttractorError(f"resolution is {self.resolution}: take a multiple of 64, such as 512.")
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise AttractorError(f"{name} is {value!r}: one of {options}.")

    def check_start(self, from_concept: bool) -> None:
        """Raise AttractorError for a start that the representation cannot have."""
        if self.representation == "NeTI" and (self.start != "class word" or self.norm != "free"):
            raise AttractorError(
                "start and norm are for TI and XTI: NeTI's network starts about the class word, or a start_concept, "
                "and its vectors keep that length. Set them back to 'class word' and 'free'."
            )
        if from_concept and self.start != "class word":
            raise AttractorError("start is 'encoded word' and start_concept is connected: choose one of the two.")

    @property
    def nearer(self) -> str:
        """How views of small subjects are made, as `make_views` has it; a plain training does not look at masks."""
        plain = self.strength == 0 and self.background_scope == "none"
        return "no" if plain or self.zoom == 1 else "random"

    @property
    def nearer_to_measure(self) -> str:
        """The same for views that are only measured: they stand still, half of the way."""
        return "no" if self.nearer == "no" else "half"

    def card(self) -> dict:
        """The fields as a plain dict."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
