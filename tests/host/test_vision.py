"""The host's own CLIP_VISION as an encoder of pictures, on a tiny model of the host's classes."""

from __future__ import annotations

import json

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.metrics.generations import Generated, Generations
from attractor_pack.metrics.scores import score
from attractor_pack.training import demo_assets

pytestmark = pytest.mark.host


def test_clip_vision_scores_pictures(comfy, tmp_path):
    from pathlib import Path

    import comfy.clip_vision
    from attractor_pack.nodes.host.vision import HostVision

    config = json.loads((Path(comfy.clip_vision.__file__).parent / "clip_vision_config_vitl.json").read_text("utf-8"))
    config |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3,
               "projection_dim": 16}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.inference_mode():
        vision = comfy.clip_vision.ClipVisionModel(str(tmp_path / "config.json"))
        generator = torch.Generator().manual_seed(0)
        for parameter in vision.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        encoder = HostVision(vision)
        subject = demo_assets.subject()
        train = subject.with_photos([p for p in subject.photos if p.name.startswith("shoot")])
        held_out = subject.with_photos([p for p in subject.photos if p.name.startswith("other")])
        shown = torch.stack([train.photos[0].pixels, held_out.photos[0].pixels])
        items = tuple(Generated("a <subject>", seed, {}) for seed in range(2))
        found = score(Generations(shown, items, "cup"), None, train, held_out, [encoder]).scores
    assert len(found) == 1 and "CLIP_VISION" in found[0].stamp["encoder"]
    copied, unseen = found[0].pictures
    assert copied["nearest_train_photo"] == train.photos[0].sha256
    assert copied["nearest_train_similarity"] == pytest.approx(1, abs=2e-5)
    assert unseen["nearest_train_similarity"] < copied["nearest_train_similarity"] - 1e-4
    with pytest.raises(AttractorError, match="no text encoder"):
        encoder.texts(["a cup"])
