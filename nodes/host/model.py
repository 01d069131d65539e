"""The host's MODEL, CLIP and VAE behind the library's DiffusionModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

from ...attractor.attention import Gatherer, LayerAttention
from ...attractor.errors import AttractorError
from ...training.model import Context, Embedding
from . import memory
from . import text as host_text
from .borrow import (
    checkpointed,
    differentiable_linears,
    frozen,
    norms_keep_their_input,
    ordinary,
    ordinary_weights,
)
from .dynamic import for_training, whole, whole_clip
from .identity import identity_of, prediction_type


class HostModel:
    """MODEL, CLIP and VAE as they are wired in the graph. Raises AttractorError for a model without cross-attention."""

    def __init__(self, model: Any, clip: Any, vae: Any):
        check_model(model)
        self.vae = vae
        self._use(model, clip)
        self.widths = {key: host_text.table(encoder).shape[-1] for key, encoder in host_text.encoders(clip).items()}
        self._check_fit()
        self.timesteps = len(self._sampling.sigmas)
        self.prediction = prediction_type(model)
        self._size, self._batch_size, self._saves_memory = 512, 1, False
        self._borrowed, self._lent = ExitStack(), False

    def _use(self, model: Any, clip: Any) -> None:
        """Compute with these from here on."""
        self.patcher, self.clip, self._base = model, clip, model.model
        self._sampling = model.get_model_object("model_sampling")  # with what a node may have put in its place

    def _check_fit(self) -> None:
        """Raise AttractorError when CLIP or VAE belong to another kind of model."""
        settings = self._base.model_config.unet_config
        context, width = settings.get("context_dim"), sum(self.widths.values())
        if context is not None and context != width:
            raise AttractorError(
                f"clip and model do not belong together: this CLIP gives prompts of width {width}, the MODEL takes "
                f"{context}. Connect both from the same checkpoint."
            )
        channels, taken = self.vae.latent_channels, settings.get("in_channels")
        if taken is not None and channels != taken:
            raise AttractorError(
                f"vae and model do not belong together: this VAE gives latents of {channels} channels, the MODEL takes "
                f"{taken} (inpainting models take more). Connect both from the same, ordinary checkpoint."
            )

    @property
    def device(self) -> torch.device:
        """Where the host runs the model."""
        return torch.device(self.patcher.load_device)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Precision of the host's U-Net computation, whatever its weights are stored in."""
        return self._base.manual_cast_dtype or self._base.get_dtype()

    @property
    def side(self) -> int:
        """Of the pictures that this kind of model was trained on: the demo's 64, SD1's 512, SD2's 768, SDXL's 1024."""
        own = getattr(self._base.model_config, "attractor_side", None)
        if own is not None:
            return int(own)
        if self._base.adm_channels > 0:
            return 1024
        return 768 if "h" in self.widths and self.prediction == "v" else 512

    @property
    def layers(self) -> int:
        """Layers of cross-attention as the host counts them: its transformer_index."""
        return count_layers(self.patcher)

    @property
    def state_key(self) -> tuple:
        """Weights, with the patches, the CLIP layer and the sampling that nodes have put on top of them.

        Patches of attention are functions, of which nobody can say whether they are the same: then no keys are equal.
        """
        options = self.patcher.model_options.get("transformer_options", {})
        patched = object() if any(options.get(k) for k in ("patches", "patches_replace", "wrappers")) else None
        return (*sorted(self.identity.items()), self.patcher.patches_uuid, self.clip.patcher.patches_uuid,
                self.clip.layer_idx, self.prediction, patched)  # fmt: skip

    @property
    def identity(self) -> dict[str, str]:
        """Hashes over samples of the weights, and of what nodes have put on them; see identity_of."""
        return identity_of(self.patcher, self.clip, self.vae)

    @contextmanager
    def training(self, batch_size: int, resolution: int, checkpointing: bool = False) -> Iterator[bool]:
        """Load U-Net and text encoder in one call, and let gradients through until the end of the block.

        Gives whether activations are computed anew in backward: when asked, and where the device has no room for a step
        beside both models, which would otherwise push each other out of it.
        """
        self._size, self._batch_size = resolution, batch_size
        given = self.patcher, self.clip
        self._saves_memory = checkpointing or not self.has_room(batch_size, resolution)
        with torch.inference_mode(False), torch.enable_grad(), for_training():
            try:
                self._use(whole(self.patcher), whole_clip(self.clip))
                self._borrow()
                yield self._saves_memory
            finally:
                self._borrowed.close()
                self._saves_memory = False
                self._use(*given)

    def save_memory(self) -> bool:
        """Checkpoint the U-Net's blocks from here on, until the end of the training."""
        if self._saves_memory:
            return False
        self._saves_memory = True
        self._borrowed.enter_context(checkpointed(self._base.diffusion_model))
        comfy.model_management.soft_empty_cache()
        return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The models as the host knows them, so that it may move them about for a preview; lent again afterwards."""
        self._borrowed.close()
        yield
        self._borrow()

    def memory_of_a_step(self, batch_size: int, resolution: int, checkpointing: bool = False) -> int:
        """Bytes that a step is likely to take beyond the weights, with what it keeps of those that are cast."""
        cells = batch_size * (resolution // 8) ** 2
        wide = 2 if self.compute_dtype.itemsize > 2 and self.device.type != "cpu" else 1
        cast = 0 if checkpointing else memory.of_cast_weights(self._base.diffusion_model, self.compute_dtype)
        return memory.of_a_step(cells, self._base.adm_channels > 0, checkpointing) * wide + cast

    def has_room(self, batch_size: int, resolution: int) -> bool:
        """Whether a step is likely to find room beside both models without computing activations anew."""
        step = self.memory_of_a_step(batch_size, resolution)
        return memory.has_room(self.device, [self.patcher, self.clip.patcher], step)

    def memory_free(self) -> int:
        """Bytes that are free on the model's device, as the host counts them."""
        count = getattr(self.patcher, "get_free_memory", comfy.model_management.get_free_memory)
        return int(count(self.device))

    def _borrow(self) -> None:
        """Load both models in one call and lend their weights to autograd, until `_borrowed` is closed."""
        self._lent = True
        self._borrowed.callback(setattr, self, "_lent", False)
        channels, side = self._base.latent_format.latent_channels, self._size // 8
        forward = self.patcher.memory_required([self._batch_size * 3, channels, side, side])
        needed = max(forward, self.memory_of_a_step(self._batch_size, self._size, self._saves_memory))
        load([self.patcher, self.clip.patcher], needed)
        unet, encoder = self._base.diffusion_model, self.clip.cond_stage_model
        for lend in (ordinary_weights, frozen, norms_keep_their_input, differentiable_linears):
            self._borrowed.enter_context(lend(unet, encoder))
        self._borrowed.enter_context(ordinary_weights(self._sampling))
        if self._saves_memory:
            self._borrowed.enter_context(checkpointed(unet))

    def words(self, text: str) -> Embedding:
        """Rows of the embedding tables for a text. Raises AttractorError when the tokenizer makes nothing of it."""
        self._load_encoder()
        tokens = host_text.tokenise(self.clip, text, {})
        found = {}
        for key, encoder in host_text.encoders(self.clip).items():
            special = set(encoder.special_tokens.values())
            ids = [t for t, _ in tokens[key][0] if isinstance(t, int) and t not in special]
            if not ids:
                raise AttractorError(f"class_word {text!r}: the text encoder's tokenizer makes no token of it.")
            found[key] = ordinary(host_text.table(encoder)).detach()[ids].float().clone()
        return found

    def _load_encoder(self) -> None:
        """Have this CLIP's own weights in place of those that another clone of it may have patched in."""
        if not self._lent:
            load([self.clip.patcher])

    def table_scale(self) -> dict[str, float]:
        """Standard deviation of the numbers in each embedding table, over every 16th row."""
        self._load_encoder()
        tables = {key: ordinary(host_text.table(encoder)) for key, encoder in host_text.encoders(self.clip).items()}
        return {key: max(float(rows[::16].float().std()), 1e-6) for key, rows in tables.items()}

    def encode(
        self, prompts: Sequence[str], embedded: Sequence[Mapping[str, Embedding]],
        bypass: Sequence[Embedding] | None = None,
    ) -> Context:  # fmt: skip
        """Encode prompts with vectors in them, one chunk of 75 tokens each; see DiffusionModel."""
        context = host_text.encode(self.clip, prompts, embedded, bypass)
        if context.tokens.shape[1] > 77:
            raise AttractorError(
                "The training prompt with its vectors is longer than the text encoder's 75 tokens: use fewer vectors "
                "or fewer background vectors."
            )
        pooled, values = (None if one is None else one.to(self.device) for one in (context.pooled, context.values))
        return Context(context.tokens.to(self.device), pooled, values)

    def encode_images(self, images: Tensor, seed: int) -> Tensor:
        """Latents in the model's scale, by the host's VAE; its own noise is seeded, the global generator untouched."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            encoded = self.vae.encode(images.movedim(1, -1))
            latents = self._base.process_latent_in(encoded)
        return latents.clone()

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level [B] at integer timesteps [B]."""
        return self._sampling.sigmas.to(timestep.device)[timestep]

    def denoise(self, noisy: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """Clean latents by the host's own apply_model, through an attention that has a backward."""
        return self._denoise(noisy, sigma, context, _differentiable_attention, (self._size, self._size))

    def _denoise(
        self, noisy: Tensor, sigma: Tensor, context: Context, attention: Any, size: tuple[int, int]
    ) -> Tensor:
        """The host's apply_model with an attention of ours. size: height and width in pixels, for SDXL."""
        options = {**self.patcher.model_options.get("transformer_options", {})}
        options |= {"sigmas": sigma, "cond_or_uncond": [0]}  # what patches of the attention look for
        options["optimized_attention_override"] = attention
        extra = {}
        if self._base.adm_channels > 0:
            extra["y"] = self._base.encode_adm(
                device=noisy.device, pooled_output=context.pooled, height=size[0], width=size[1]
            )
        if context.tokens.ndim == 4:
            options["patches"] = _per_layer(options.get("patches", {}), context)
        return self._base.apply_model(
            noisy, sigma, c_crossattn=context.layer(0)[0], transformer_options=options, **extra
        )

    def attention(self, noisy: Tensor, sigma: Tensor, prompt: str, largest: int) -> list[LayerAttention]:
        """Attention of the layers of at most `largest` cells; see DiffusionModel. Loads the models as the host does."""
        height, width = noisy.shape[-2:]
        needed = self.patcher.memory_required([len(noisy) * 2, *noisy.shape[1:]])
        load([self.patcher, self.clip.patcher], needed)
        with torch.inference_mode():
            context = self.encode([prompt], [{}]).select(torch.zeros(len(noisy), dtype=torch.long, device=self.device))
            gatherer = Gatherer((height, width), context.tokens.shape[1], largest)

            def gather(_chosen: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
                gatherer.take(q, k, heads)
                return attention_pytorch(q, k, v, heads, *args, **kwargs)

            self._denoise(noisy.to(self.device), sigma.to(self.device), context, gather, (height * 8, width * 8))
        return gatherer.layers

    def output_scale(self, sigma: Tensor) -> Tensor:
        """How strongly the raw output enters the denoised latent: read off the host's own formula."""
        one = torch.ones(len(sigma), 1, 1, 1, device=sigma.device)
        sampling = self._sampling
        zero = torch.zeros_like(one)
        change = sampling.calculate_denoised(sigma, one, zero) - sampling.calculate_denoised(sigma, zero, zero)
        return change.abs().flatten()


def load(patchers: Sequence[Any], needed: float = 0) -> None:
    """Load models in one call, in the mode in which the host does it, so that moved weights are as it leaves them."""
    with torch.inference_mode():
        comfy.model_management.load_models_gpu(list(patchers), memory_required=needed)


def check_model(model: Any) -> None:
    """Raise AttractorError for a MODEL without cross-attention to a text, such as Flux or SD3."""
    unet = getattr(model.model, "diffusion_model", None)
    names = [name for name, _ in unet.named_modules()] if unet is not None else []
    if not any(name.endswith("attn2") for name in names):
        kind = type(model.model).__name__
        raise AttractorError(
            f"This MODEL ({kind}) has no cross-attention to the prompt, so a concept cannot be learnt for it: connect "
            "an SD1.x, SD2.x or SDXL checkpoint."
        )


def count_layers(model: Any) -> int:
    """Number of the U-Net's spatial transformers, each of which has one place in the host's transformer_index."""
    return sum(hasattr(module, "transformer_blocks") for module in model.model.diffusion_model.modules())


def _per_layer(patches: dict, context: Context) -> dict:
    """A model's patches with one more in front, by which each layer of cross-attention gets its own context."""

    def own_context(n: Tensor, key: Tensor, _value: Tensor, extra: dict) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = context.layer(extra["transformer_index"])
        return n, keys.to(key.dtype), values.to(key.dtype)

    return {**patches, "attn2_patch": [own_context, *patches.get("attn2_patch", [])]}


def _differentiable_attention(_chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
    return attention_pytorch(*args, **kwargs)
