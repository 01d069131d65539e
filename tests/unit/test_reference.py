"""The same numbers as the reference implementations', on the same weights and votes."""

import choix
import krippendorff
import numpy as np
import pytest
import torch
from attractor_pack.metrics.encoders import load_encoder, open_clip_file
from attractor_pack.metrics.people import bradley_terry, krippendorff_alpha
from attractor_pack.training import demo_assets
from PIL import Image

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def photos(dreambooth):
    """Real photos of three shapes, as 8-bit pictures; one an odd number of pixels too wide."""
    first = [Image.open(dreambooth / "dog" / name).convert("RGB") for name in ("00.jpg", "01.jpg", "02.jpg")]
    return [first[0].resize((640, 480)), first[1].resize((301, 420)), first[2].resize((227, 224))]


def as_tensor(photo):
    return torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip import CLIPImageProcessor

    folder = tmp_path_factory.mktemp("encoders") / "tiny-clip"
    torch.manual_seed(0)
    text, vision = {**SMALL, "vocab_size": 49408}, {**SMALL, "image_size": 224, "patch_size": 32}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    for file in (demo_assets.ASSETS / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_clip_features_are_transformers(clip_folder, photos):
    from transformers import CLIPModel
    from transformers.models.clip import CLIPImageProcessorPil

    encoder = load_encoder(clip_folder.name, [clip_folder.parent])
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    reference = CLIPModel.from_pretrained(clip_folder).eval()
    for photo in photos:
        with torch.no_grad():
            out = reference.get_image_features(**processor(photo, return_tensors="pt"))
        features = out if isinstance(out, torch.Tensor) else out.pooler_output
        expected = torch.nn.functional.normalize(features, dim=-1)
        assert torch.allclose(encoder.images(as_tensor(photo)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [{"shortest_edge": 256}, {"height": 224, "width": 224}], ids=["DINOv2", "DINO"])
def test_dino_features_are_transformers(tmp_path, photos, size):
    """DINOv2 is shown a centre crop, DINO the whole photo in a square."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel
    from transformers.models.bit import BitImageProcessorPil
    from transformers.models.vit import ViTImageProcessorPil

    torch.manual_seed(0)
    small = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
    if "shortest_edge" in size:
        model = Dinov2Model(Dinov2Config(**small, image_size=224, patch_size=14))
        processor = BitImageProcessorPil(size=size, crop_size={"height": 224, "width": 224})
    else:
        model, processor = ViTModel(ViTConfig(**SMALL, image_size=224, patch_size=16)), ViTImageProcessorPil(size=size)
    model.eval().save_pretrained(tmp_path / "dino")
    processor.save_pretrained(tmp_path / "dino")
    encoder = load_encoder("dino", [tmp_path])
    for photo in photos:
        with torch.no_grad():
            features = model(**processor(photo, return_tensors="pt")).last_hidden_state[:, 0]
        expected = torch.nn.functional.normalize(features, dim=-1)
        assert torch.allclose(encoder.images(as_tensor(photo)), expected, atol=1e-5, rtol=0)


def test_open_clip_features_are_open_clips(tmp_path, photos):
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "ViT-S-32-alt.safetensors")
    encoder = load_encoder("ViT-S-32-alt.safetensors", [tmp_path])
    for photo in photos:
        with torch.no_grad():
            expected = model.eval().encode_image(transform(photo)[None], normalize=True)
        assert torch.allclose(encoder.images(as_tensor(photo)), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(["a dog on the moon"]), normalize=True)
    assert torch.allclose(encoder.texts(["a dog on the moon"]), expected, atol=1e-5, rtol=0)
    in_the_cache = (tmp_path / "ViT-S-32-alt.safetensors").rename(tmp_path / "open_clip_model.safetensors")
    same = open_clip_file(in_the_cache, "ViT-S-32-alt.safetensors")
    assert torch.equal(same.texts(["a dog"]), encoder.texts(["a dog"])) and same.stamp == encoder.stamp


def test_clip_score_is_torchmetrics(clip_folder, photos):
    """CLIPScore is 100 times our cosine, on pictures of the encoder's own size."""
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    encoder = load_encoder(clip_folder.name, [clip_folder.parent])

    class Model(CLIPModel):
        """transformers 5 gives an output where torchmetrics expects the features themselves."""

        def get_image_features(self, *args, **kwargs):
            out = super().get_image_features(*args, **kwargs)
            return getattr(out, "pooler_output", out)

        def get_text_features(self, *args, **kwargs):
            out = super().get_text_features(*args, **kwargs)
            return getattr(out, "pooler_output", out)

    made = Model.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    metric = CLIPScore(model_name_or_path=lambda: made)
    texts = ["a photo of a dog", "a cat", "a red cup on a table"]
    pictures = [photo.resize((224, 224)) for photo in photos]
    for photo, text in zip(pictures, texts, strict=True):
        metric.reset()
        theirs = metric((as_tensor(photo) * 255).round().to(torch.uint8), [text])
        cosine = float((encoder.images(as_tensor(photo)) * encoder.texts([text])).sum())
        assert max(100 * cosine, 0) == pytest.approx(float(theirs), abs=1e-3)


def test_strengths_are_choix():
    rng = np.random.default_rng(0)
    for methods in (2, 4, 7):
        wins = rng.integers(1, 20, (methods, methods)).astype(float)
        np.fill_diagonal(wins, 0)
        theirs = choix.ilsr_pairwise_dense(wins, alpha=0, tol=1e-12)
        assert bradley_terry(wins) == pytest.approx(theirs - theirs.mean(), abs=1e-8)
    both = bradley_terry(np.stack([wins, wins.T]))
    assert both[0] == pytest.approx(bradley_terry(wins)) and both[1] == pytest.approx(bradley_terry(wins.T))


def test_agreement_is_krippendorff():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 40)
    for noise in (0.0, 0.3, 1.0):
        answers = np.where(rng.random((5, 40)) < noise, rng.integers(0, 3, (5, 40)), truth)
        answers[rng.random(answers.shape) < 0.3] = -1
        data = np.where(answers < 0, np.nan, answers)
        theirs = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
        assert krippendorff_alpha(answers) == pytest.approx(theirs, abs=1e-9)
    assert krippendorff_alpha(np.array([[0, 1, -1]])) is None, "one rater cannot agree with anyone"
    assert krippendorff_alpha(np.array([[1, 1], [1, 1]])) is None


def test_sscd_is_a_resnet_with_generalised_mean_pooling(tmp_path, photos):
    """The authors' state dict, on a whole photo in a square; and what is no such file says so."""
    from attractor_pack.attractor.errors import AttractorError
    from torchvision.models import resnet50
    from torchvision.transforms.functional import normalize

    torch.manual_seed(0)
    model = resnet50(num_classes=512).eval()
    state = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "sscd_disc_mixup.torchvision.pt")
    model.avgpool = torch.nn.Identity()
    found = load_encoder("sscd_disc_mixup.torchvision.pt", [tmp_path])
    assert found.stamp["encoder"] == "SSCD"
    whole = as_tensor(photos[1].resize((320, 320), Image.Resampling.BICUBIC))
    x = normalize(whole, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        for layer in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(model, layer)(x)
        expected = model.fc((x.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3))
    expected = torch.nn.functional.normalize(expected, dim=-1)
    assert torch.allclose(found.images(as_tensor(photos[1])), expected, atol=1e-5)
    torch.save({"backbone.conv1.weight": torch.zeros(3)}, tmp_path / "sscd_other.pt")
    (tmp_path / "sscd_cut.safetensors").write_bytes(b"not a model")
    for name, message in (("sscd_other.pt", "not SSCD's"), ("sscd_cut.safetensors", "damaged")):
        with pytest.raises(AttractorError, match=message):
            load_encoder(name, [tmp_path])
