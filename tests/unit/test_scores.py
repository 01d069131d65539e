"""Scores on pictures whose truth is known, by a real encoder from PyPI and by tiny models of the real architectures."""

import json
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.metrics.encoders import available, efficientnet_lite0, load_encoder, no_text
from attractor_pack.metrics.generations import Generated, Generations, contact_sheet
from attractor_pack.metrics.page import folder_for, write_report
from attractor_pack.metrics.pictures import read_pictures, write_pictures
from attractor_pack.metrics.scores import score
from attractor_pack.training import demo_assets
from attractor_pack.training.concept import Concept


@pytest.fixture(scope="module")
def sets():
    subject = demo_assets.subject()
    train = subject.with_photos([p for p in subject.photos if p.name.startswith("shoot")])
    held_out = subject.with_photos([p for p in subject.photos if p.name.startswith("other")])
    return train, held_out


@pytest.fixture(scope="module")
def efficientnet():
    return efficientnet_lite0([])


def made(images, concept=None):
    items = tuple(Generated("a photo of a <subject>", i, {"steps": 1, "cfg": 1.0}) for i in range(len(images)))
    return Generations(torch.stack(images), items, "cup", concept)


def test_copying_the_training_photos_shows_as_memorisation(sets, efficientnet):
    train, held_out = sets
    noise = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    copies = made([p.pixels for p in train.photos[:4]])
    honest = made([p.pixels for p in held_out.photos[:4]])
    copied = score(copies, made(noise), train, held_out, [efficientnet]).scores[0]
    unseen = score(honest, made(noise), train, held_out, [efficientnet]).scores[0]
    assert copied.memorisation_gap > 0.05 > unseen.memorisation_gap
    assert copied.train > copied.held_out and copied.floor < copied.held_out <= 1
    assert copied.pictures[0]["nearest_train_photo"] == train.photos[0].sha256
    assert copied.pictures[0]["nearest_train_similarity"] > 0.999


@pytest.mark.slow
def test_masks_that_come_with_the_pictures_part_subject_and_background(sets, efficientnet):
    """As saliency does when it sees the same, whatever the order of the base model's pictures."""
    train, held_out = (part.with_photos([replace(p, mask=stripes(p.pixels)) for p in part.photos]) for part in sets)
    pictures, base = made([p.pixels for p in train.photos[:3]]), made([p.pixels for p in held_out.photos[:3]])
    seen = score(pictures, base, train, held_out, [efficientnet], stripes).scores
    turned = Generations(base.images.flip(0), base.items[::-1], base.class_word)
    masked = [one.with_masks(torch.stack([stripes(i) for i in one.images]), "masks") for one in (pictures, turned)]
    given = score(*masked, train, held_out, [efficientnet]).scores
    assert [s.region for s in given] == ["whole", "subject", "background"]
    assert [s.pictures for s in given] == [s.pictures for s in seen]
    assert given[2].leak is not None and given[2].leak == seen[2].leak
    assert given[1].held_out != given[0].held_out != given[2].held_out
    with pytest.raises(AttractorError, match="base_masks is not connected"):
        score(masked[0], base, train, held_out, [efficientnet])
    with pytest.raises(AttractorError, match="has no mask"):
        bare = train.with_photos([replace(p, mask=None) for p in train.photos])
        score(masked[0], None, bare, held_out, [efficientnet])
    for wrong in (torch.ones(2, 64, 64), torch.ones(3, 32, 64)):
        with pytest.raises(AttractorError, match=r"picture_masks: \d masks .* for 3 pictures of 64 x 64"):
            pictures.with_masks(wrong, "picture_masks")
    with pytest.raises(AttractorError, match="picture_masks: holds NaN"):
        pictures.with_masks(torch.full((3, 64, 64), torch.nan), "picture_masks")


def stripes(image):
    """The upper part as the subject, more of it the lighter the picture is."""
    height = round(float(image.mean()) * image.shape[-2])
    return (torch.arange(image.shape[-2]) < height).float()[:, None].expand(image.shape[-2:]).clone()


def test_a_floor_of_another_word_is_refused(sets, efficientnet):
    """As when the next subject is taken into a graph whose second grid still says the last one's word."""
    train, held_out = sets
    concept = Concept({"l": torch.zeros(1, 768)}, "tea  Pot", {})
    of_concept = replace(made([held_out.photos[0].pixels], concept), class_word="tea  Pot")
    with pytest.raises(AttractorError, match="write 'tea pot' into class_word"):
        score(of_concept, made([train.photos[0].pixels]), train, held_out, [efficientnet])
    same = replace(made([train.photos[0].pixels]), class_word="Tea pot")
    assert score(of_concept, same, train, held_out, [efficientnet]).scores


def test_the_ceiling_is_held_out_against_held_out(sets, efficientnet):
    train, held_out = sets
    features = torch.cat([efficientnet.images(p.pixels[None]) for p in held_out.photos])
    pairs = [float(features[i] @ features[j]) for i in range(4) for j in range(4) if i != j]
    found = score(made([p.pixels for p in held_out.photos]), None, train, held_out, [efficientnet]).scores[0]
    assert found.ceiling == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)
    assert found.memorisation_gap is None and found.floor is None


def test_a_report_of_other_photos_is_kept_and_one_of_the_same_is_replaced(sets, efficientnet, tmp_path):
    """Under one name, as when the next subject is taken into the same graph."""
    train, held_out = sets
    report = score(made([held_out.photos[0].pixels]), None, train, held_out, [efficientnet])
    folder = tmp_path / "my-subject"
    assert folder_for(report, folder) == folder
    write_report(report, folder)
    assert folder_for(report, folder) == folder
    other = json.loads((folder / "report.json").read_text()) | {"train_photos": ["0" * 64], "held_out_photos": []}
    (folder / "report.json").write_text(json.dumps(other))
    assert folder_for(report, folder) == tmp_path / "my-subject-2"
    write_report(report, folder_for(report, folder))
    assert folder_for(report, folder) == tmp_path / "my-subject-2"
    assert json.loads((folder / "report.json").read_text())["train_photos"] == ["0" * 64]


def test_a_report_that_does_not_fit_on_the_disk_leaves_the_last_one(sets, efficientnet, tmp_path):
    """By a real limit on the size of files: the report that was there stays whole, and the error names the file."""
    train, held_out = sets
    report = score(made([held_out.photos[0].pixels]), None, train, held_out, [efficientnet])
    data, page = write_report(report, tmp_path)
    before = data.read_bytes(), page.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1200, hard))
    try:
        with pytest.raises(AttractorError, match=r"report\.json"):
            write_report(report, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (data.read_bytes(), page.read_bytes()) == before and len(list(tmp_path.iterdir())) == 3


def test_what_lies_above_the_floor_is_said_with_its_certainty(sets, efficientnet):
    """Pairs by prompt and seed, in whatever order the base model's pictures come; prompts are the units."""
    train, held_out = sets
    prompts = [f"a <subject>, {i}" for i in range(4)]
    items = tuple(Generated(prompt, 0, {"steps": 1, "cfg": 1.0}) for prompt in prompts)
    like = torch.stack([photo.pixels for photo in held_out.photos])
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shown, base = Generations(like, items, "cup", None), Generations(noise, items, "cup", None)
    turned = Generations(noise.flip(0), items[::-1], "cup", None)
    found = score(shown, base, train, held_out, [efficientnet]).scores[0]
    again = score(shown, turned, train, held_out, [efficientnet])
    assert again.scores[0].over_floor.mean == pytest.approx(found.over_floor.mean, abs=1e-6)
    assert found.over_floor.mean == pytest.approx(found.held_out - found.floor, abs=1e-6)
    assert found.over_floor.units == 4 and 0 < found.over_floor.low < found.over_floor.mean < found.over_floor.high
    assert found.over_floor.p == 2 / 16 and "over 4 prompts" in again.text


def test_every_score_is_stamped(sets, efficientnet):
    train, held_out = sets
    report = score(made([held_out.photos[0].pixels]), None, train, held_out, [efficientnet])
    stamp = report.as_dict()["scores"][0]["stamp"]
    assert stamp["encoder"] == "EfficientNet-Lite0" and len(stamp["weights"]) == 64
    assert "224" in stamp["preprocessing"] and stamp["scale"] == "cosine"


def test_efficientnet_tells_real_subjects_apart(dreambooth, efficientnet):
    """Real weights: photos of one subject are nearer to each other than to another subject's."""
    from attractor_pack.training.photos import read_folder

    features = {n: torch.cat([efficientnet.images(p.pixels[None]) for p in read_folder(dreambooth / n, "x").photos])
                for n in ("clock", "duck_toy")}  # fmt: skip
    within = np.mean([float((f @ f.T).mean()) for f in features.values()])
    across = float((features["clock"] @ features["duck_toy"].T).mean())
    assert within > across + 0.2


def test_a_concept_that_was_trained_on_a_held_out_photo_is_refused(sets, efficientnet):
    train, held_out = sets
    concept = Concept({"l": torch.zeros(1, 8)}, "cup", {"train_photos": [held_out.photos[1].sha256]})
    with pytest.raises(AttractorError, match=held_out.photos[1].name):
        score(made([held_out.photos[0].pixels], concept), None, train, held_out, [efficientnet])


def test_pictures_remember_what_was_trained_on_without_the_concept(sets, efficientnet, tmp_path):
    """A folder of pictures says it by itself; those that only chose the step may be scored on."""
    train, held_out = sets
    card = {"train_photos": [train.photos[0].sha256], "held_out_photos": [held_out.photos[0].sha256]}
    write_pictures(made([train.photos[0].pixels], Concept({"l": torch.zeros(1, 8)}, "cup", card)), tmp_path)
    again = read_pictures(tmp_path, None)
    assert score(again, None, train, held_out, [efficientnet]).scores
    with pytest.raises(AttractorError, match=f"trained on {train.photos[0].name}"):
        score(again, None, held_out, train, [efficientnet])


def test_a_base_with_a_concept_or_other_settings_is_refused(sets, efficientnet):
    train, held_out = sets
    shown = made([held_out.photos[0].pixels])
    with pytest.raises(AttractorError, match="painted with a concept"):
        score(shown, made([held_out.photos[0].pixels], Concept({}, "cup")), train, held_out, [efficientnet])
    other = Generations(shown.images, (Generated("a photo of a <subject>", 0, {"steps": 9, "cfg": 1.0}),), "cup")
    with pytest.raises(AttractorError, match="other sampler settings"):
        score(shown, other, train, held_out, [efficientnet])


def test_unpaired_and_empty_sets_are_refused(sets, efficientnet):
    train, held_out = sets
    one, two = made([train.photos[0].pixels]), made([train.photos[0].pixels] * 2)
    with pytest.raises(AttractorError, match="other prompts or seeds"):
        score(one, two, train, held_out, [efficientnet])
    with pytest.raises(AttractorError, match="held_out has no photos"):
        score(one, None, train, held_out.with_photos([]), [efficientnet])


def test_the_demos_own_encoder_knows_a_subject_again():
    """On another background, among 48 subjects that it never saw; the text-image pair looks at backgrounds."""
    from attractor_pack.tools.pretrain.dino import found_again

    own, pair = (found_again(load_encoder(name, []).images, 7, 48) for name in ("demo-dino", "demo-clip"))
    assert own["subject"] > 0.85 > 0.3 > pair["subject"]
    assert own["same colours"] > 0.5


def test_local_encoders_of_the_real_architectures(tmp_path, sets):
    """Tiny CLIP and DINOv2 folders and an open_clip file, saved and loaded as a user's would be."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text, vision = {**small, "vocab_size": 49408}, {**small, "image_size": 32, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    clip.save_pretrained(tmp_path / "tiny-clip")
    for file in (demo_assets.ASSETS / "tokenizer").iterdir():
        (tmp_path / "tiny-clip" / file.name).write_bytes(file.read_bytes())
    Dinov2Model(Dinov2Config(**{k: v for k, v in small.items() if k != "intermediate_size"}, image_size=32,
                             patch_size=8)).save_pretrained(tmp_path / "tiny-dino")  # fmt: skip
    assert available([tmp_path]) == ["demo-clip", "demo-dino", "efficientnet-lite0", "tiny-clip", "tiny-dino"]
    train, held_out = sets
    encoders = [load_encoder(n, [tmp_path]) for n in ("tiny-clip", "tiny-dino")]
    report = score(made([held_out.photos[0].pixels]), made([train.photos[0].pixels]), train, held_out, encoders)
    assert [s.kind for s in report.scores] == ["image", "text", "image"]
    text = report.scores[1]
    expected = encoders[0].images(held_out.photos[0].pixels[None]) @ encoders[0].texts(["a photo of a cup"]).T
    assert text.text == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(AttractorError, match="reads no text"):
        encoders[1].texts(["a cup"])


@pytest.mark.slow
def test_open_clip_file_named_after_its_architecture(tmp_path):
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model("RN50", pretrained=None)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "RN50_openai.safetensors")
    encoder = load_encoder("RN50_openai.safetensors", [tmp_path])
    assert encoder.has_text and encoder.stamp["encoder"] == "open_clip RN50"
    assert torch.allclose(encoder.texts(["a dog", "a cat"]).norm(dim=-1), torch.ones(2), atol=1e-5)
    assert encoder.images(torch.rand(1, 3, 100, 80)).shape[0] == 1


def test_missing_encoder_says_where_to_put_it(tmp_path):
    with pytest.raises(AttractorError) as error:
        load_encoder("dinov2-small", [tmp_path])
    assert "dinov2-small" in str(error.value) and str(tmp_path) in str(error.value)


def test_which_encoders_read_text_is_known_before_they_are_loaded():
    for name in ("efficientnet-lite0", "demo-dino", "dinov2-small", "dino-vits16"):
        assert f"{name} reads no text" in no_text(name, [])
    for name in ("demo-clip", "ViT-B-32_openai.safetensors", "ViT-L-14.safetensors"):
        assert no_text(name, []) == ""


def test_report_files_hold_no_names_or_paths(tmp_path, sets, efficientnet):
    train, held_out = sets
    card = {"settings": {"steps": 3}, "stopped": "step 3", "loss": {"train": [[1, 0.5], [3, 0.4]]}, "best_step": 3}
    concept = Concept({"l": torch.randn(2, 8)}, "cup", card)
    shown = made([p.pixels for p in held_out.photos], concept)
    plain = made([p.pixels for p in held_out.photos])
    data, page = write_report(score(shown, plain, train, held_out, [efficientnet]), tmp_path / "r")
    text = data.read_text(encoding="utf-8")
    assert "shoot_1" not in text and str(tmp_path) not in text
    assert json.loads(text)["scores"][0]["held_out"] > 0
    assert page.read_text(encoding="utf-8").count("data:image/") > 10
    assert contact_sheet(shown).shape[0] == 3


@pytest.mark.slow
def test_a_thousand_pictures_are_scored_with_flat_memory(sets, tmp_path):
    """In a process of its own: the peak grows by no more than a few batches beyond the pictures themselves."""
    script = tmp_path / "score.py"
    script.write_text(
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from attractor_pack.metrics.encoders import load_encoder\n"
        "from attractor_pack.metrics.generations import Generated, Generations\n"
        "from attractor_pack.metrics.page import folder_for, write_report\n"
        "from attractor_pack.metrics.scores import score\n"
        "from attractor_pack.training import demo_assets\n"
        "subject = demo_assets.subject()\n"
        "parts = [subject.with_photos([p for p in subject.photos if p.name[:5] == n]) for n in ('shoot', 'other')]\n"
        "def run(count):\n"
        "    items = tuple(Generated(f'a <subject>, {i % 50}', i // 50, {}) for i in range(count))\n"
        "    images = torch.rand(count, 3, 64, 64)\n"
        "    made = Generations(images, items, 'cup')\n"
        "    write_report(score(made, None, *parts, [load_encoder('demo-clip', [])]), Path(sys.argv[1]))\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "small = run(200)\n"
        "print(run(1000) - small)\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-P", str(script), str(tmp_path / "r")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    pictures = 1000 * 3 * 64 * 64 * 4 / 2**20
    assert float(run.stdout) < pictures + 150, f"{run.stdout.strip()} MiB more for 1,000 pictures than for 200"
