"""A small text-image pair for scoring, contrastive on the world, saved as an ordinary transformers folder.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021. Its
tokenizer knows whole words of the grammar only, so `CLIPModel`, `AutoTokenizer` and
`CLIPImageProcessor` load the folder with `from_pretrained` and nothing else.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..world import BACKGROUNDS, COLOUR_NAMES, KINDS, PATTERNS, caption
from .cache import load_pictures, scene_of
from .common import cosine, save_atomic, stage_arguments
from .team import Team, run
from .text import FUNCTION_WORDS
from .vae import to_tensor

SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")
LENGTH = 20


def words() -> tuple[str, ...]:
    """The tokenizer's vocabulary in the order of its ids."""
    return SPECIAL + FUNCTION_WORDS + KINDS + COLOUR_NAMES + tuple(
        dict.fromkeys(PATTERNS + BACKGROUNDS))


def make_tokenizer():
    """A word-level tokenizer that adds start and end, as transformers saves it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(words())}
    pad, unknown, start, end = SPECIAL
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown,
                                   bos_token=start, eos_token=end, model_max_length=LENGTH)


def make_model():
    """A CLIPModel of half a million parameters for 64-pixel pictures."""
    from transformers import CLIPConfig, CLIPModel

    ids = {word: i for i, word in enumerate(words())}
    shared = {"hidden_size": 96, "intermediate_size": 288, "num_attention_heads": 4, "projection_dim": 96}
    text = {**shared, "num_hidden_layers": 2, "vocab_size": len(ids), "max_position_embeddings": LENGTH,
            "pad_token_id": ids["<pad>"], "bos_token_id": ids["<start>"], "eos_token_id": ids["<end>"]}
    vision = {**shared, "num_hidden_layers": 3, "image_size": 64, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96,
                                logit_scale_init_value=2.5))


def token_ids(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, int64 [B, LENGTH], as the saved tokenizer gives them."""
    ids = {word: i for i, word in enumerate(words())}
    out = torch.full((len(texts), LENGTH), ids["<pad>"])
    for i, text in enumerate(texts):
        row = [ids["<start>"], *(ids[w] for w in text.split()), ids["<end>"]]
        out[i, :len(row)] = torch.tensor(row)
    return out, (out != ids["<pad>"]).long()


def embed(model, pixels: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of pictures [B, 3, 64, 64] in [-1, 1] and of texts, [B, 96] each."""
    ids, mask = token_ids(texts)
    out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    return out.image_embeds, out.text_embeds


@torch.no_grad()
def retrieval(model, seed: int, count: int = 200) -> float:
    """Share of unseen renders whose full caption is the nearest among `count`, in [0, 1]."""
    from .vae import held_out

    model.eval()
    texts = [caption(scene_of(seed + 9001, i), full=True) for i in range(count)]
    image, text = embed(model, held_out(count, seed) * 2 - 1, texts)
    model.train()
    return float(((image @ text.T).argmax(1) == torch.arange(count)).float().mean())


def save(path: Path, model, optimiser: torch.optim.Optimizer, state: dict) -> None:
    """Write everything that going on needs."""
    save_atomic(path, {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "state": state})


def train(team: Team, args: argparse.Namespace) -> None:
    """Train for some minutes in all, or go on from the last save, and write the folder."""
    path, state = args.folder / "clip.pt", {"seconds": 0.0, "steps": 0}
    torch.manual_seed(args.seed)
    model = make_model().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    if path.exists():
        loaded = torch.load(path, weights_only=True)
        model.load_state_dict(loaded["model"])
        optimiser.load_state_dict(loaded["optimiser"])
        state = loaded["state"]
    pictures = load_pictures(args.folder)
    scenes = [scene_of(args.seed, i) for i in range(len(pictures))]
    rng = np.random.default_rng((args.seed, team.rank, state["steps"]))
    begin, before, noted = time.monotonic(), state["seconds"], time.monotonic()
    while state["seconds"] < args.minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(state["seconds"] / (args.minutes * 60), warmup=0.05, floor=0.02)
        index = rng.integers(len(pictures), size=args.batch)
        texts = [caption(scenes[i], rng, full=bool(rng.random() < 0.5)) for i in index]
        image, text = embed(model, to_tensor(pictures[index]) * 2 - 1, texts)
        logits = model.logit_scale.exp() * image @ text.T
        target = torch.arange(len(index))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()
        seconds = team.average(model.parameters(), before + time.monotonic() - begin)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.logit_scale.data.clamp_(0, 4.6)
        state = {"seconds": seconds, "steps": state["steps"] + 1}
        if team.leads and time.monotonic() - noted > 60:
            noted = time.monotonic()
            save(path, model, optimiser, state)
            print(f"clip {seconds:.0f} s, {state['steps']} steps, loss {loss.item():.3f}, "
                  f"retrieval in 200 {retrieval(model, args.seed):.3f}", flush=True)
    if team.leads:
        save(path, model, optimiser, state)
        write(model, args.out)
        score = retrieval(model, args.seed)
        print(f"clip done: {state['steps']} steps, retrieval in 200 {score:.3f}", flush=True)


def write(model, out: Path) -> None:
    """Save model (half precision), tokenizer and image processor."""
    from transformers import CLIPImageProcessor

    size = {"height": 64, "width": 64}
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=size, image_mean=[0.5] * 3,
                                   image_std=[0.5] * 3)
    half = make_model()
    half.load_state_dict(model.state_dict())
    half.eval().half().save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    processor.save_pretrained(out)


def main(argv: list[str] | None = None) -> None:
    """Command line of the text-image stage."""
    parser = stage_arguments(__doc__, Path("assets/demo/clip"), minutes=8.0, batch=96, lr=1e-3)
    args = parser.parse_args(argv)
    run(train, args.workers, args)


if __name__ == "__main__":
    main()
