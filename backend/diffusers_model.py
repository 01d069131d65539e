"""A diffusers pipeline behind the library's DiffusionModel, for the command line and for machines without ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from ..attractor.attention import Gatherer, LayerAttention
from ..attractor.errors import AttractorError
from ..attractor.prompts import SUBJECT, spoken
from ..metrics.generations import Generated, Generations
from ..training.concept import Concept
from ..training.contexts import Row, add_bypass, encode_words, norm_inputs
from ..training.model import Context, Embedding, fingerprint
from ..training.representations import NeuralMapper

_PLACEHOLDER = "<|startoftext|>"  # one token of every CLIP vocabulary, and in no prompt


class DiffusersModel:
    """Stable Diffusion 1.x, 2.x or XL in a diffusers pipeline."""

    def __init__(self, pipeline: Any, name: str):
        self.pipeline, self._name = pipeline, name
        self._encoders = _text_encoders(pipeline)
        self._alphas = pipeline.scheduler.alphas_cumprod.float()
        self.widths = {key: _table(encoder).shape[-1] for key, (_, encoder) in self._encoders.items()}
        self.timesteps = len(self._alphas)
        self.prediction = {"epsilon": "eps", "v_prediction": "v"}.get(pipeline.scheduler.config.prediction_type, "eps")
        self._size, self._saves_memory = 512, False
        self._processors: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the U-Net lies."""
        return self.pipeline.unet.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """Precision of the U-Net."""
        return self.pipeline.unet.dtype

    @property
    def identity(self) -> dict[str, str]:
        """Hash over samples of the weights of U-Net, text encoders and VAE."""
        modules = {"model": self.pipeline.unet, "vae": self.pipeline.vae}
        modules |= {f"clip_{key}": encoder for key, (_, encoder) in self._encoders.items()}
        return {name: f"diffusers {type(module).__name__} {fingerprint(module)}" for name, module in modules.items()}

    @contextmanager
    def training(self, batch_size: int, resolution: int, checkpointing: bool = False) -> Iterator[bool]:
        """Gradients on, weights frozen. Gives whether activations are computed anew in backward: when asked."""
        self._size = resolution
        modules = [self.pipeline.unet, self.pipeline.vae, *(e for _, e in self._encoders.values())]
        flags = [(p, p.requires_grad) for m in modules for p in m.parameters()]
        self._processors = self.pipeline.unet.attn_processors
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            if checkpointing:
                self.save_memory()
            with torch.enable_grad():
                yield checkpointing
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            if self._saves_memory:
                self.pipeline.unet.disable_gradient_checkpointing()
                self.pipeline.unet.set_attn_processor(dict(self._processors))
            self._saves_memory = False

    def has_room(self, batch_size: int, resolution: int) -> bool:
        """Not known here, so taken for granted: when memory runs out the loop takes its measures."""
        return True

    def save_memory(self) -> bool:
        """Gradient checkpointing of the U-Net from here on, until the end of the training."""
        if self._saves_memory:
            return False
        self.pipeline.unet.enable_gradient_checkpointing()
        self._saves_memory = True
        return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing to put back: the pipeline samples with frozen weights as well."""
        yield

    def words(self, text: str) -> Embedding:
        """Rows of the embedding tables for a text. Raises AttractorError when the tokenizer makes nothing of it."""
        found = {}
        for key, (tokenizer, encoder) in self._encoders.items():
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if not ids:
                raise AttractorError(f"class word {text!r}: the text encoder's tokenizer makes no token of it.")
            found[key] = _table(encoder).detach()[ids].float().clone()
        return found

    def table_scale(self) -> dict[str, float]:
        """Standard deviation of the numbers in each embedding table, over every 16th row."""
        return {key: float(_table(e).detach()[::16].float().std()) for key, (_, e) in self._encoders.items()}

    def encode(
        self, prompts: Sequence[str], embedded: Sequence[Mapping[str, Embedding]],
        bypass: Sequence[Embedding] | None = None,
    ) -> Context:  # fmt: skip
        """Encode prompts with vectors in them; see DiffusionModel."""
        hidden, values, pooled = [], [], None
        for key in (k for k in ("l", "h", "g") if k in self._encoders):
            tokenizer, encoder = self._encoders[key]
            ids, rows, places, length = [], [], [], encoder.config.max_position_embeddings
            for prompt, markers in zip(prompts, embedded, strict=True):
                one, vectors, of = _tokens(tokenizer, length, prompt, {m: e[key] for m, e in markers.items()})
                ids.append(one)
                rows.append(vectors)
                places.append([marker == SUBJECT for marker in of])
            norm = next(m for name, m in encoder.named_modules() if name.endswith("final_layer_norm"))
            with norm_inputs(norm) as seen:
                output = _run_encoder(encoder, torch.tensor(ids, device=encoder.device), rows)
            hidden.append(output.hidden_states[-2] if len(self._encoders) > 1 else output[0])
            pooled = output[0] if len(self._encoders) > 1 else None
            if bypass is not None:
                added = torch.stack([one[key] for one in bypass]).to(self.device)
                values.append(add_bypass(hidden[-1], seen, norm, torch.tensor(places, device=self.device), added))
        return Context(torch.cat(hidden, dim=-1), pooled, torch.cat(values, dim=-1) if values else None)

    def encode_images(self, images: Tensor, seed: int) -> Tensor:
        """Latents in the model's scale from images [B, 3, H, W] in [0, 1]; the VAE's own noise is seeded."""
        vae = self.pipeline.vae
        with torch.no_grad():
            encoded = vae.encode((images * 2 - 1).to(vae.device, vae.dtype))
        if hasattr(encoded, "latent_dist"):
            generator = torch.Generator(vae.device).manual_seed(seed)
            latents = encoded.latent_dist.sample(generator)
        else:
            latents = encoded.latents
        return latents.float() * vae.config.scaling_factor

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level [B] at integer timesteps [B]: sqrt((1 - a) / a) of the cumulative alpha."""
        alpha = self._alphas.to(timestep.device)[timestep]
        return ((1 - alpha) / alpha).sqrt()

    def denoise(self, noisy: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """Clean latents from clean + sigma * noise, in float32 around the U-Net's own precision."""
        return self._denoise(noisy, sigma, context, (self._size, self._size))

    def _denoise(self, noisy: Tensor, sigma: Tensor, context: Context, size: tuple[int, int]) -> Tensor:
        """The same for pictures of a size, height and width in pixels, which SDXL is told."""
        unet, s = self.pipeline.unet, sigma.view(-1, 1, 1, 1)
        scaled = (noisy / (s.square() + 1).sqrt()).to(unet.dtype)
        all_sigmas = ((1 - self._alphas) / self._alphas).sqrt().to(sigma.device)
        timestep = (all_sigmas[None] - sigma[:, None]).abs().argmin(1)
        extra = {}
        if context.pooled is not None:
            sizes = torch.tensor([[*size, 0, 0, *size]], device=noisy.device)
            ids = sizes.expand(len(noisy), -1).to(unet.dtype)
            extra["added_cond_kwargs"] = {"text_embeds": context.pooled.to(unet.dtype), "time_ids": ids}
        if self._saves_memory:
            unet.set_attn_processor(dict(self._processors))
        stays = self._saves_memory and torch.is_grad_enabled()  # backward runs the layers again
        with _per_layer(unet, context, stays):
            tokens = context.layer(0)[0].to(unet.dtype)
            output = unet(scaled, timestep, encoder_hidden_states=tokens, **extra).sample.float()
        if self.prediction == "v":
            return noisy / (s.square() + 1) - output * s / (s.square() + 1).sqrt()
        return noisy - output * s

    @property
    def layers(self) -> int:
        """Layers of cross-attention in the U-Net's order."""
        return len(_layer_names(self.pipeline.unet))

    @property
    def state_key(self) -> tuple:
        """The pipeline's own, as it is loaded."""
        return tuple(sorted(self.identity.items()))

    @property
    def side(self) -> int:
        """Of the pictures that the pipeline paints by default."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    def attention(self, noisy: Tensor, sigma: Tensor, prompt: str, largest: int) -> list[LayerAttention]:
        """Attention of every layer of at most `largest` cells; see DiffusionModel."""
        unet, before = self.pipeline.unet, self.pipeline.unet.attn_processors
        with torch.no_grad():
            context = self.encode([prompt], [{}]).select(torch.zeros(len(noisy), dtype=torch.long, device=self.device))
            gatherer = Gatherer((noisy.shape[-2], noisy.shape[-1]), context.tokens.shape[1], largest)
            try:
                unet.set_attn_processor(_Gathering(gatherer))
                size = tuple(length * self.pipeline.vae_scale_factor for length in noisy.shape[-2:])
                self._denoise(noisy.to(self.device), sigma.to(self.device), context, (size[0], size[1]))
            finally:
                unet.set_attn_processor(before)
        return gatherer.layers

    def output_scale(self, sigma: Tensor) -> Tensor:
        """c_out: sigma for eps, sigma / sqrt(sigma^2 + 1) for v."""
        return sigma / (sigma.square() + 1).sqrt() if self.prediction == "v" else sigma

    @torch.no_grad()
    def sample(
        self, concept: Concept | None, class_word: str, prompts: Sequence[str], seeds: Sequence[int], steps: int,
        cfg: float, size: int, negative: str = "", truncation: int = 0,
    ) -> Generations:  # fmt: skip
        """Paint every prompt with every seed through the pipeline's own scheduler. truncation: see NeuralMapper."""
        if concept is not None:
            concept.check_fits(self.widths, self.layers, f"the model {self._name}")
        word = class_word or (concept.class_word if concept else "")
        settings = {"steps": steps, "cfg": cfg, "sampler_name": type(self.pipeline.scheduler).__name__,
                    "scheduler": "diffusers", "width": size, "height": size, "negative": negative}  # fmt: skip
        images, items = [], []
        self.pipeline.set_progress_bar_config(disable=True)
        for prompt in prompts:
            for seed in seeds:
                images.append(self._paint(concept, word, prompt, seed, settings, truncation))
                items.append(Generated(prompt, seed, settings))
        return Generations(torch.stack(images), tuple(items), word, concept, self.identity)

    def _paint(
        self, concept: Concept | None, word: str, prompt: str, seed: int, settings: dict, truncation: int
    ) -> Tensor:
        contexts = []
        for text in (prompt, settings["negative"]):
            vectors = {k: v.to(self.device) for k, v in concept.vectors.items()} if concept else None
            spelt = text if vectors else spoken(text, word)
            contexts.append(self.encode([spelt], [{SUBJECT: vectors} if vectors else {}]))
        positive, negative = contexts
        pooled = {}
        if positive.pooled is not None and negative.pooled is not None:
            pooled = {"pooled_prompt_embeds": positive.pooled, "negative_pooled_prompt_embeds": negative.pooled}
        with self._layered(concept, prompt, settings["steps"], truncation) as own:
            if pooled and own is not None:
                pooled["pooled_prompt_embeds"] = own
            result = self.pipeline(
                prompt_embeds=positive.tokens, negative_prompt_embeds=negative.tokens, width=settings["width"],
                height=settings["height"], num_inference_steps=settings["steps"], guidance_scale=settings["cfg"],
                generator=torch.Generator("cpu").manual_seed(seed), output_type="pt", **pooled,
            )  # fmt: skip
        return result.images[0].float().cpu().clamp(0, 1)

    @contextmanager
    def _layered(
        self, concept: Concept | None, prompt: str, steps: int, truncation: int
    ) -> Iterator[Tensor | None]:  # fmt: skip
        """Let the pipeline's U-Net see a concept's own contexts in each layer and at each of its timesteps; gives their
        pooled output, where there is one that is not the plain embedding's.

        In the pipeline's batch the negative prompt comes first, and without guidance is not there.
        """
        if concept is None or concept.kind == "TI" or SUBJECT not in prompt:
            yield None
            return
        unet, scheduler = self.pipeline.unet, self.pipeline.scheduler
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.float().cpu()
        subject = concept.representation().to(self.device)
        if isinstance(subject, NeuralMapper):
            subject.truncation = truncation
        words = subject(timesteps)
        rows = len(next(iter(words.vectors.values())))
        table = encode_words(self.encode, [Row(prompt)] * rows, words)
        ordinary = unet.forward

        def forward(sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            row = int((timesteps - float(timestep)).abs().argmin()) if rows > 1 else 0
            both, count = encoder_hidden_states[:, None].repeat(1, self.layers, 1, 1), len(sample)
            keys, values = both.clone(), both
            mine = slice(count // 2, None)  # one picture at a time: one row, or two with the negative prompt first
            keys[mine] = table.tokens[row]
            values[mine] = (table.tokens if table.values is None else table.values)[row]
            with _per_layer(unet, Context(keys, None, values)):
                return ordinary(sample, timestep, encoder_hidden_states, *args, **kwargs)

        try:
            unet.forward = forward
            yield None if table.pooled is None else table.pooled.mean(0, keepdim=True)
        finally:
            del unet.forward


def load(name: str) -> DiffusersModel:
    """A model by name: "demo", a folder in diffusers' layout, or a single .safetensors checkpoint.

    Raises AttractorError when it is missing or cannot be loaded without a download.
    """
    try:
        import diffusers
    except ImportError as error:
        needs = "pip install diffusers transformers accelerate"
        raise AttractorError(f"The command line needs diffusers: run '{needs}'.") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "demo":
        from .demo import pipeline

        return DiffusersModel(pipeline().to(device), name)
    path = Path(name)
    if not path.exists():
        raise AttractorError(f"{name}: no such model. Give 'demo', a diffusers folder or a .safetensors checkpoint.")
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise AttractorError(f"{name}: only .safetensors checkpoints are loaded; others can run code when opened.")
    try:
        if path.is_dir():
            loaded = diffusers.DiffusionPipeline.from_pretrained(path, local_files_only=True, use_safetensors=True)
        else:
            loaded = diffusers.StableDiffusionPipeline.from_single_file(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise AttractorError(
            f"{name}: cannot be loaded without a download ({error}). A folder in diffusers' layout has all it needs."
        ) from error
    return DiffusersModel(loaded.to(device), path.name)


class _Gathering(AttnProcessor2_0):
    """The ordinary attention, which shows its queries and keys to a gatherer."""

    def __init__(self, gatherer: Gatherer):
        super().__init__()
        self._gatherer = gatherer

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, *args: Any, **kwargs: Any):
        taken = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        self._gatherer.take(attn.to_q(hidden_states), attn.to_k(taken), attn.heads)
        return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


class _OwnContext(AttnProcessor2_0):
    """The ordinary cross-attention, with keys and values from contexts of its own."""

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self._keys, self._values = keys, values

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dtype = hidden_states.dtype
        projected = (attn.to_q(hidden_states), attn.to_k(self._keys.to(dtype)), attn.to_v(self._values.to(dtype)))
        heads = (one.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for one in projected)
        found = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2)
        return attn.to_out[1](attn.to_out[0](found))


@contextmanager
def _per_layer(unet: Any, context: Context, stays: bool = False) -> Iterator[None]:
    """Let each layer of cross-attention see its own context, where it has layers, until the end of the block.

    stays: afterwards too; whoever asks for it puts the processors back.
    """
    if context.tokens.ndim == 3:
        yield
        return
    before = unet.attn_processors
    index = {name: i for i, name in enumerate(_layer_names(unet))}

    def processor(name: str) -> Any:
        layer = next((i for start, i in index.items() if name.startswith(f"{start}.transformer_blocks")), None)
        return before[name] if layer is None or ".attn2." not in name else _OwnContext(*context.layer(layer))

    try:
        unet.set_attn_processor({name: processor(name) for name in before})
        yield
    finally:
        if not stays:
            unet.set_attn_processor(before)


def _layer_names(unet: Any) -> list[str]:
    """Names of the spatial transformers in the order in which they run: down, middle, up."""
    order = ("down", "mid", "up")
    names = [name for name, module in unet.named_modules() if hasattr(module, "transformer_blocks")]
    return sorted(names, key=lambda name: order.index(name.split("_")[0]))


def _text_encoders(pipeline: Any) -> dict[str, tuple[Any, Any]]:
    second = getattr(pipeline, "text_encoder_2", None)
    first_key = "h" if pipeline.text_encoder.config.hidden_size == 1024 else "l"
    found = {first_key: (pipeline.tokenizer, pipeline.text_encoder)}
    if second is not None:
        found["g"] = (pipeline.tokenizer_2, second)
    return found


def _table(encoder: Any) -> Tensor:
    return encoder.get_input_embeddings().weight


def _tokens(
    tokenizer: Any, length: int, prompt: str, vectors: Mapping[str, Tensor]
) -> tuple[list[int], list[Tensor], list[str]]:
    """`length` token ids with a placeholder where each vector goes, the vectors in that order, and the marker that
    each token belongs to, if any.
    """
    found = sorted((prompt.find(m, i), m) for m in vectors for i in range(len(prompt)) if prompt.startswith(m, i))
    rows = [row for _, marker in found for row in vectors[marker]]
    text = prompt
    for marker, value in vectors.items():
        text = text.replace(marker, f" {_PLACEHOLDER * len(value)} ")
    ids = tokenizer(" ".join(text.split()), truncation=False, add_special_tokens=False)["input_ids"]
    if len(ids) > length - 2:
        raise AttractorError(f"The prompt is longer than {length - 2} tokens with its vectors: {prompt!r}. Shorten it.")
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    owners = iter([marker for _, marker in found for _ in vectors[marker]])
    of = [next(owners) if i and token == tokenizer.bos_token_id else "" for i, token in enumerate(ids)]
    return ids + [padding] * (length - len(ids)), rows, of + [""] * (length - len(ids))


def _run_encoder(encoder: Any, ids: Tensor, rows: Sequence[Sequence[Tensor]]) -> Any:
    """Run a text encoder with vectors in the place of its placeholders; the gradient reaches them."""
    start = ids[0, 0]
    place = (ids == start) & (torch.arange(ids.shape[1], device=ids.device) > 0)
    flat = [row for one in rows for row in one]

    def put(_module: Any, _args: Any, output: Tensor) -> Tensor:
        if not flat:
            return output
        return output.index_put(place.nonzero(as_tuple=True), torch.stack([row.to(output) for row in flat]))

    handle = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        return encoder(ids, output_hidden_states=True)
    finally:
        handle.remove()
