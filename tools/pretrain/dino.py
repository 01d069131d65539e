"""A small self-supervised image encoder for scoring, a ViT as DINO's, saved as an ordinary transformers folder.

It learns which photos show the same thing and is told nothing else: no kind, no colour, no caption. Two renders of a
thing, in other poses, on other backgrounds and in other light, are pulled together, those of all other things in a
batch pushed apart (Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, formula
1). Things come in families that share their colours and pattern, or their kind, for among things drawn at random the
colours alone tell all apart, and no shape is learnt. Of crops of one picture, as DINO has them (Caron et al., Emerging
Properties in Self-Supervised Vision Transformers, 2021), nothing was learnt in the time that there is (docs/notes.md).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..world import COLOUR_NAMES, DETAILS, KINDS, Scene, Thing, held_back, sample_scene, sample_subject
from ..world.scene import sample_look
from ..world.subjects import badge_for, subject_photos
from .cache import build, load_pictures
from .common import cosine, save_atomic, stage_arguments
from .judge import softened
from .team import Team, run
from .vae import to_tensor

VIEWS, FAMILY = 4, 8  # photos of a thing, things of a family
TEMPERATURE = 0.1


def make_model():
    """A ViTModel of half a million parameters for 64-pixel pictures."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(hidden_size=96, intermediate_size=288, num_hidden_layers=4, num_attention_heads=4,
                              image_size=64, patch_size=8), add_pooling_layer=False)


def features(encoder, pictures: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, 96] of pictures [B, 3, 64, 64] in [0, 1]: the class token, as scores use it."""
    return F.normalize(encoder(pixel_values=pictures * 2 - 1).last_hidden_state[:, 0], dim=-1)


def thing_of(seed: int, index: int) -> Thing:
    """Thing `index`: of its family of FAMILY, every third shares the kind, the others colours and pattern."""
    rng = np.random.default_rng((seed, 61, index // FAMILY))
    own = np.random.default_rng((seed, 67, index))
    kind, *rest = sample_look(rng)
    if index // FAMILY % 3 == 0:
        look = next(look for look in iter(lambda: (kind, *sample_look(own)[1:]), None) if not held_back(*look))
    else:
        kinds = [KINDS[i] for i in rng.permutation(len(KINDS)) if not held_back(KINDS[i], *rest)]
        look = (kinds[index % FAMILY % len(kinds)], *rest)
    thing = Thing(*look)
    if own.random() < 0.5:
        colours = [colour for colour in COLOUR_NAMES if colour not in look[2:]]
        shape, colour = DETAILS[int(own.integers(len(DETAILS)))], colours[int(own.integers(len(colours)))]
        thing = replace(thing, detail=badge_for(thing.kind, shape, colour))
    return thing


def scene_of(seed: int, index: int) -> Scene:
    """Photo `index`: a thing's photos follow one another, each a scene of its own."""
    return sample_scene(np.random.default_rng((seed, 71, index)), thing=thing_of(seed, index // VIEWS))


def contrast(first: torch.Tensor, second: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """NT-Xent of unit vectors [B, D] of two views: cross-entropy of the right partner among all others of both.

    same: bool [B, B], things that look alike to the last detail; they are no examples of another thing.
    """
    both, count = torch.cat([first, second]), len(first)
    right = (torch.arange(2 * count) + count) % (2 * count)
    out = same.repeat(2, 2)
    out[torch.arange(2 * count), right] = False
    return F.cross_entropy((both @ both.T / TEMPERATURE).masked_fill(out, -torch.inf), right)


@torch.no_grad()
def found_again(embed, seed: int, count: int = 96) -> dict[str, float]:
    """Of unseen subjects with two photos on other backgrounds: is the nearest of the second photos of the same subject?

    embed: pictures [B, 3, 64, 64] in [0, 1] to unit vectors. Returns shares in [0, 1]: "subject" among `count` drawn
    at random, where colours tell most apart (chance is 1/count); "same colours" among FAMILY that have colours, pattern
    and badge in common and differ in kind alone (chance 1/FAMILY).
    """
    subjects = [sample_subject(seed + 7000 + i) for i in range(count)]
    twins = [[replace(subject, kind=KINDS[k], detail=badge_for(KINDS[k], subject.detail.shape, subject.detail.colour))
              for k in np.random.default_rng((seed, i)).permutation(len(KINDS))[:FAMILY]]
             for i, subject in enumerate(subjects[: count // FAMILY])]  # fmt: skip
    hard = [_nearest_is_own(embed, family, seed + 500) for family in twins]
    return {"subject": _nearest_is_own(embed, subjects, seed), "same colours": float(np.mean(hard))}


def _nearest_is_own(embed, subjects: list, seed: int) -> float:
    photos = [subject_photos(subject, 2, "varied", seed + i) for i, subject in enumerate(subjects)]
    first, second = (embed(to_tensor(np.stack([pair[i].image for pair in photos]))) for i in (0, 1))
    return float(((first @ second.T).argmax(1) == torch.arange(len(subjects))).float().mean())


def train(team: Team, args: argparse.Namespace) -> None:
    """Train for some minutes in all, or go on from the last save, and write the folder."""
    path, state = args.folder / "same-thing.pt", {"seconds": 0.0, "steps": 0}
    torch.manual_seed(args.seed)
    encoder = make_model().train()
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=args.lr, weight_decay=0.05)
    if path.exists():
        loaded = torch.load(path, weights_only=True)
        encoder.load_state_dict(loaded["model"])
        optimiser.load_state_dict(loaded["optimiser"])
        state = loaded["state"]
    pictures = load_pictures(args.folder / f"things-{args.seed}")
    families = len(pictures) // (VIEWS * FAMILY)
    looks = [thing_of(args.seed, i) for i in range(families * FAMILY)]
    number = {thing: i for i, thing in enumerate(dict.fromkeys(looks))}
    look = torch.tensor([number[thing] for thing in looks])
    rng = np.random.default_rng((args.seed, 53, team.rank, state["steps"]))
    begin, before, noted = time.monotonic(), state["seconds"], time.monotonic()

    def note(value: float) -> None:
        save_atomic(path, {"model": encoder.state_dict(), "optimiser": optimiser.state_dict(), "state": state})
        encoder.eval()
        found = found_again(lambda x: features(encoder, x), args.seed)
        encoder.train()
        print(f"dino {state['seconds']:.0f} s, {state['steps']} steps, loss {value:.3f}, "
              + ", ".join(f"{name} {share:.3f}" for name, share in found.items()), flush=True)

    loss = torch.zeros(())
    while state["seconds"] < args.minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(state["seconds"] / (args.minutes * 60), warmup=0.05, floor=0.01)
        family = rng.choice(families, size=args.batch // FAMILY, replace=False)
        things = (family[:, None] * FAMILY + np.arange(FAMILY)).ravel()
        pair = rng.permuted(np.tile(np.arange(VIEWS), (len(things), 1)), axis=1)[:, :2]
        index = things[:, None] * VIEWS + pair
        x = softened(to_tensor(pictures[index.T.ravel()]), rng)
        first, second = features(encoder, x).chunk(2)
        loss = contrast(first, second, look[things, None] == look[None, things])
        optimiser.zero_grad()
        loss.backward()
        seconds = team.average(encoder.parameters(), before + time.monotonic() - begin)
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        state = {"seconds": seconds, "steps": state["steps"] + 1}
        if team.leads and time.monotonic() - noted > 60:
            noted = time.monotonic()
            note(loss.item())
    if team.leads:
        note(loss.item())
        write(encoder, args.out)


def write(encoder, out: Path) -> None:
    """Save model (half precision) and image processor."""
    from transformers import ViTImageProcessor

    half = make_model()
    half.load_state_dict(encoder.state_dict())
    half.eval().half().save_pretrained(out)
    size = {"height": 64, "width": 64}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(out)


def compare() -> None:
    """What the encoders that come with the pack, and EfficientNet, find again of two draws of unseen subjects."""
    from ...metrics.encoders import DEMO, EFFICIENTNET, load_encoder
    from ..models import MODELS

    for name in (*DEMO, EFFICIENTNET):
        encoder = load_encoder(name, [MODELS])
        for seed in (0, 1000):
            found = found_again(encoder.images, seed)
            print(f"{name:20s} seed {seed:4d}  " + ", ".join(f"{what} {share:.3f}" for what, share in found.items()))


def main(argv: list[str] | None = None) -> None:
    """Command line of the self-supervised stage."""
    parser = stage_arguments(__doc__, Path("assets/demo/dino"), minutes=10.0, batch=128, lr=1e-3)
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--render-workers", type=int, default=2)
    parser.add_argument("--compare", action="store_true", help="only print what each encoder here finds again")
    args = parser.parse_args(argv)
    if args.compare:
        return compare()
    build(args.folder / f"things-{args.seed}", args.pictures, args.seed, args.render_workers, scene_of)
    run(train, args.workers, args)


if __name__ == "__main__":
    main()
