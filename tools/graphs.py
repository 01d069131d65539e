"""The main road as a graph in API format: photos, masks, split, training, pictures with and without, scores."""

from __future__ import annotations

SAMPLER = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64}
TRAINING = {
    "steps": 300, "batch_size": 4, "learning_rate": 0.005, "vectors": 3, "resolution": 64, "strength": 1.0,
    "background_scope": "shared", "background_vectors": 2, "background_steps": 150, "zoom": 1.2, "flip": False,
    "views": 8, "training_seed": 0, "preview_every": 0, "preview_prompt": "a photo of a <subject>",
}  # fmt: skip
PROMPTS = (
    "a photo of a <subject> on a red plain background",
    "a photo of a <subject> on a blue wooden background",
    "a photo of a <subject> on a white tile background",
    "a photo of a <subject> on a purple curtain background",
    "a photo of a <subject> on a yellow room background",
    "a photo of a <subject> on a black plain background",
    "a photo of a <subject> on a pink tile background",
    "a photo of a <subject> on a green wooden background",
)


def node(kind: str, **inputs) -> dict:
    """One node of an API-format graph."""
    return {"class_type": kind, "inputs": inputs}


def defaults(schema: dict) -> dict:
    """What a node's required inputs stand at when it is put into a graph. schema: its entry in object_info."""
    found = {}
    for name, (kind, *options) in schema["input"].get("required", {}).items():
        told = options[0] if options else {}
        if "default" in told:
            found[name] = told["default"]
        elif isinstance(kind, list) and kind:
            found[name] = kind[0]
        elif kind == "COMBO" and told.get("options"):
            found[name] = told["options"][0]
    return found


def main_road(
    folder: str = "", class_word: str = "cup", name: str = "demo-cup", report: str = "demo", back_end: str = "saliency",
    held_out: float = 4, split_seed: int = 4, prompts: tuple[str, ...] = PROMPTS, seeds: int = 2,
    when_exists: str = "overwrite", training: dict | None = None, sampler: dict | None = None,
) -> dict:  # fmt: skip
    """The whole road on the demo checkpoint; folder: photos to learn from, or "" for the demo subject.

    With split seed 4 the demo subject's four photos on other backgrounds are held out, and the training sees one
    single shoot: the hard case.
    """
    sampler = {**SAMPLER, **(sampler or {})}
    model = {"model": ["demo", 0], "clip": ["demo", 1], "vae": ["demo", 2]}
    grid = {"prompts": "\n".join(prompts), "negative": "", "first_seed": 1, "seeds": seeds, "batch_size": 6, **sampler}
    graph = {
        "demo": node("Attractor_LoadDemo"),
        "mask": node("Attractor_Mask", subject=["photos", 0] if folder else ["demo", 3], back_end=back_end, grow=0.0,
                     feather=4.0, fill_holes=True, cells=8),
        "split": node("Attractor_Split", subject=["mask", 0], held_out=held_out, split_seed=split_seed),
        "train": node("Attractor_Train", **model, train_set=["split", 0], held_out_set=["split", 1],
                      **{**TRAINING, **(training or {})}),
        "save": node("Attractor_SaveConcept", concept=["train", 0], name=name, when_exists=when_exists),
        "grid": node("Attractor_SampleGrid", **model, concept=["train", 0], class_word="", **grid),
        "base": node("Attractor_SampleGrid", **model, class_word=class_word, **grid),
        "score": node("Attractor_Score", generations=["grid", 2], base_generations=["base", 2], train_set=["split", 0],
                      held_out_set=["split", 1], image_encoder="efficientnet-lite0" if folder else "demo-dino",
                      text_encoder="none" if folder else "demo-clip", report_name=report),
        "sheet": node("SaveImage", images=["grid", 1], filename_prefix=f"attractor/{report}/sheet"),
        "overlay": node("SaveImage", images=["mask", 2], filename_prefix=f"attractor/{report}/mask"),
        "curve": node("SaveImage", images=["train", 1], filename_prefix=f"attractor/{report}/curve"),
    }  # fmt: skip
    if folder:
        graph["photos"] = node("Attractor_LoadSubject", folder=folder, class_word=class_word)
    return graph
