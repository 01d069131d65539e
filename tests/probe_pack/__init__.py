"""Nodes for the tests: they look at the host's models from inside, and hand out bad inputs."""

import hashlib
import json
import sys

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_api.latest import ComfyExtension, io


def _state(module):
    digest, objects, hooks, grads, changed = hashlib.sha256(), [], 0, 0, []
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        raw = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
        digest.update(name.encode() + raw.cpu().numpy().tobytes())
        objects.append((id(tensor), tensor.is_inference(), tensor.requires_grad))
        grads += tensor.grad is not None
    for name, child in module.named_modules():
        hooks += len(child._forward_hooks) + len(child._forward_pre_hooks) + len(child._backward_hooks)
        if "forward" in child.__dict__:
            changed.append(name)
    return {
        "sha256": digest.hexdigest(),
        "objects": hashlib.sha256(repr(objects).encode()).hexdigest(),
        "hooks": hooks,
        "grads": grads,
        "changed_forwards": changed,
        "training": sum(m.training for m in module.modules()),
    }


class State(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_State", is_output_node=True, not_idempotent=True,
            inputs=[io.Model.Input("model"), io.Clip.Input("clip"), io.Vae.Input("vae"), io.String.Input("tag")],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, clip, vae, tag):
        found = {
            "model": _state(model.model.diffusion_model),
            "clip": _state(clip.cond_stage_model),
            "vae": _state(vae.first_stage_model),
            "patches": [len(model.patches), len(clip.patcher.patches), sorted(model.model_options)],
            "options": sorted(model.model_options.get("transformer_options", {})),
            "tokenizer": sorted(clip.tokenizer.clip_l.__dict__),
            "rng": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        return io.NodeOutput(ui={"text": (json.dumps(found),)})


class Conditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Difference", is_output_node=True,
            inputs=[io.Conditioning.Input("a"), io.Conditioning.Input("b")], outputs=[],
        )

    @classmethod
    def execute(cls, a, b):
        difference = float((a[0][0] - b[0][0]).abs().max()) if a[0][0].shape == b[0][0].shape else float("inf")
        size = float(a[0][0].abs().max())
        return io.NodeOutput(ui={"text": (json.dumps({"difference": difference, "size": size}),)})


class Again(io.ComfyNode):
    """The same MODEL under another tag, so that the host runs again what comes after it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Again", inputs=[io.Model.Input("model"), io.String.Input("tag")], outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, model, tag):
        return io.NodeOutput(model)


class Break(io.ComfyNode):
    """A clone of a MODEL whose cross-attention fails, or gives NaN, from a certain call on."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Break",
            inputs=[io.Model.Input("model"), io.Combo.Input("how", options=["oom", "nan"]), io.Int.Input("after")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, how, after):
        calls = [0]

        def patch(n, context, value, extra):
            calls[0] += 1
            if calls[0] > after and how == "oom":
                raise comfy.model_management.OOM_EXCEPTION("out of memory, said the probe")
            return n, context, value * float("nan") if calls[0] > after else value

        clone = model.clone()
        clone.set_model_attn2_patch(patch)
        return io.NodeOutput(clone)


class Flux(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Probe_Flux", inputs=[], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls):
        config = comfy.supported_models.Flux({
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 8,
            "context_in_dim": 8, "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1,
            "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
            "guidance_embed": False, "dtype": torch.float32,
        })
        model = comfy.model_base.Flux(config)
        return io.NodeOutput(comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")))


class BadMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Mask",
            inputs=[
                io.Combo.Input("how", options=["nan", "zero", "shape", "good", "inverted", "full"]),
                io.Int.Input("count"),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, how, count):
        masks = torch.zeros(count, 64, 64)
        if how != "zero":
            masks[:, 16:48, 16:48] = 1
        if how == "nan":
            masks[-1, 0, 0] = float("nan")
        if how in ("inverted", "full"):
            masks = torch.ones_like(masks) if how == "full" else 1 - masks
        return io.NodeOutput(masks[:, :32] if how == "shape" else masks)


class Overlap(io.ComfyNode):
    """Intersection over union of the masks of two sets of the same photos."""

    @classmethod
    def define_schema(cls):
        kind = io.Custom("SUBJECT_SET")
        return io.Schema(
            node_id="Probe_Overlap", is_output_node=True, inputs=[kind.Input("a"), kind.Input("b")], outputs=[]
        )

    @classmethod
    def execute(cls, a, b):
        found = []
        for mine, true in zip(a.photos, b.photos, strict=True):
            x, y = mine.mask > 0.5, true.mask > 0.5
            found.append(float((x & y).sum() / (x | y).sum()))
        return io.NodeOutput(ui={"text": (json.dumps(found),)})


class MakeConcept(io.ComfyNode):
    """A concept without training, by the pack's own class."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Concept", inputs=[io.Int.Input("vectors")], outputs=[io.Custom("CONCEPT").Output()]
        )

    @classmethod
    def execute(cls, vectors):
        kind = next(m for n, m in sys.modules.items() if n.endswith(".training.concept")).Concept
        return io.NodeOutput(kind({"l": torch.randn(vectors, 128)}, "cup", {}))


class Bytes(io.ComfyNode):
    """Exact numbers of an image, which a saved PNG would round."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Image", is_output_node=True, not_idempotent=True,
            inputs=[io.Image.Input("image"), io.String.Input("tag")], outputs=[],
        )

    @classmethod
    def execute(cls, image, tag):
        digest = hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()
        return io.NodeOutput(ui={"text": (json.dumps({"sha256": digest, "mean": float(image.mean())}),)})


class Latent(io.ComfyNode):
    """What is in a latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Probe_Latent", is_output_node=True, inputs=[io.Latent.Input("latent")], outputs=[])

    @classmethod
    def execute(cls, latent):
        numbers = latent["samples"]
        found = {"finite": bool(torch.isfinite(numbers).all()), "largest": float(numbers.abs().max())}
        return io.NodeOutput(ui={"text": (json.dumps(found),)})


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [State, Conditioning, Again, Break, Flux, BadMask, Overlap, MakeConcept, Bytes, Latent]


async def comfy_entrypoint():
    return ProbeExtension()
