"""The text encoder in training: the host's CLIP layers, a table of the rows that the grammar uses."""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..world import BACKGROUNDS, COLOUR_NAMES, KINDS, PATTERNS
from .common import initialise

START, END, POSITIONS = 49406, 49407, 77
FUNCTION_WORDS = ("a", "an", "photo", "of", "picture", "on", "with", "background")
CONFIG = {
    "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 3,
    "hidden_act": "quick_gelu", "max_position_embeddings": POSITIONS, "eos_token_id": END,
    "projection_dim": 128,
}


class Vocabulary:
    """The grammar's words, each one token of the CLIP tokenizer, and their rows in the small table."""

    def __init__(self, tokenizer_folder: Path):
        with open(tokenizer_folder / "vocab.json", encoding="utf-8") as file:
            ids = json.load(file)
        words = (*FUNCTION_WORDS, *KINDS, *COLOUR_NAMES, *PATTERNS, *BACKGROUNDS)
        self.token_ids = sorted({ids[f"{word}</w>"] for word in words} | {START, END})
        row = {token: i for i, token in enumerate(self.token_ids)}
        self.row_of_word = {word: row[ids[f"{word}</w>"]] for word in words}
        self.start, self.end = row[START], row[END]

    def rows(self, captions: list[str], length: int) -> torch.Tensor:
        """Table rows int64 [B, length]: start, words, end, and end again as padding, as the host pads."""
        out = torch.full((len(captions), length), self.end)
        out[:, 0] = self.start
        for i, text in enumerate(captions):
            words = [self.row_of_word[word] for word in text.split()]
            out[i, 1:1 + len(words)] = torch.tensor(words, dtype=torch.long)
        return out


class TextEncoder(nn.Module):
    """The host's CLIPTextModel over a table of few rows, written without in-place additions.

    Import the host first (see `common.host`).
    """

    def __init__(self, row_count: int, config: dict | None = None):
        super().__init__()
        import comfy.ops
        from comfy.clip_model import CLIPEncoder

        config = config or CONFIG
        width, ops = config["hidden_size"], comfy.ops.disable_weight_init
        self.heads = config["num_attention_heads"]
        self.token_embedding = nn.Embedding(row_count, width)
        self.position_embedding = nn.Embedding(POSITIONS, width)
        self.encoder = CLIPEncoder(config["num_hidden_layers"], width, self.heads,
                                   config["intermediate_size"], config["hidden_act"], torch.float32, "cpu",
                                   ops)
        self.final_layer_norm = nn.LayerNorm(width)
        initialise(self)
        nn.init.normal_(self.token_embedding.weight, std=0.08)
        nn.init.normal_(self.position_embedding.weight, std=0.03)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [B, T] to the final layer norm of the last hidden state, [B, T, width]."""
        x = self.token_embedding(rows) + self.position_embedding.weight[:rows.shape[1]]
        for layer in self.encoder.layers:
            x = x + self._attend(layer.self_attn, layer.layer_norm1(x))
            x = x + layer.mlp(layer.layer_norm2(x))
        return self.final_layer_norm(x)

    def _attend(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for f in (layer.q_proj, layer.k_proj, layer.v_proj))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return layer.out_proj(out.transpose(1, 2).flatten(2))

    def host_state(self) -> dict[str, torch.Tensor]:
        """State dict under the host's key names, without the token table."""
        state = {f"text_model.{k}": v for k, v in self.state_dict().items()}
        del state["text_model.token_embedding.weight"]
        key = "text_model.position_embedding.weight"
        state["text_model.embeddings.position_embedding.weight"] = state.pop(key)
        return state
