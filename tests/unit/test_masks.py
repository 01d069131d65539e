"""Weights, grids, external masks and verdicts."""

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.loss import weighted_error
from attractor_pack.attractor.masks import (
    Refinement,
    check_mask,
    overlay,
    pixel_weight,
    refine,
    to_latent_grid,
    verdict,
)
from attractor_pack.attractor.photo_masks import mask_set
from attractor_pack.attractor.saliency import SaliencyModel
from attractor_pack.tools.models import fetch_u2netp
from attractor_pack.training import demo_assets
from attractor_pack.training.photos import photo_from_tensor, read_folder, subject_set
from attractor_pack.training.views import view


def disc(size=96, radius=24.0, x=48, y=48):
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((xx - x) ** 2 + (yy - y) ** 2 < radius**2).float()


def test_strength_zero_is_plain_training_and_one_is_the_mask():
    mask = torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(pixel_weight(mask, 0), torch.ones(3))
    assert torch.equal(pixel_weight(mask, 1), mask)
    assert torch.allclose(pixel_weight(mask, 0.5), torch.tensor([0.5, 0.625, 1.0]))
    with pytest.raises(AttractorError, match="strength"):
        pixel_weight(mask, 1.5)


def test_latent_grid_is_the_mean_of_each_cell():
    mask = torch.zeros(1, 16, 16)
    mask[0, :8, :4] = 1
    assert torch.allclose(to_latent_grid(mask, 2, 2), torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]]))


def test_loss_counts_only_weighted_pixels_and_every_sample_alike():
    clean = torch.zeros(2, 4, 8, 8)
    denoised = torch.zeros(2, 4, 8, 8)
    denoised[:, :, :, 4:] = 3.0
    weight = torch.zeros(2, 1, 8, 8)
    weight[0, :, :4, :4] = 1  # sees no error
    weight[1, :, 0, 4] = 1  # one pixel of error 3
    scale = torch.tensor([1.0, 2.0])
    assert torch.allclose(weighted_error(denoised, clean, scale, weight), torch.tensor([0.0, 9 / 4]))


def test_external_masks_are_checked():
    with pytest.raises(AttractorError, match="rex.*NaN"):
        check_mask(torch.full((10, 10), float("nan")), (10, 10), "rex.png")
    with pytest.raises(AttractorError, match="all zero"):
        check_mask(torch.zeros(10, 10), (10, 10), "rex.png")
    with pytest.raises(AttractorError, match="20 x 10, the photo 10 x 10"):
        check_mask(torch.ones(10, 20), (10, 10), "rex.png")
    assert check_mask(torch.ones(1, 20, 40), (10, 5), "rex.png").shape == (5, 10)


def test_refinement_grows_fills_and_feathers():
    ring = disc() - disc(radius=8)
    plain = Refinement(feather=0, fill_holes=False)
    assert torch.equal(refine(ring, plain), ring)
    assert refine(ring, Refinement(feather=0)).sum() == disc().sum()
    grown = refine(disc(), Refinement(grow=50, feather=0))
    shrunk = refine(disc(), Refinement(grow=-50, feather=0))
    assert shrunk.sum() < disc().sum() < grown.sum()
    soft = refine(disc(), Refinement(feather=30))
    assert ((soft > 0.1) & (soft < 0.9)).sum() > 100


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (disc(), "good"),
        (disc(radius=3), "no subject found"),
        (disc(radius=6), "subject too small"),
        (torch.ones(96, 96), "covers nearly everything"),
        (disc(radius=60, x=0), "touches the border"),
        (disc(radius=15, x=24) + disc(radius=14, x=72), "several objects"),
        (disc() * 0.6 + 0.1, "uncertain"),
    ],
)
def test_verdicts(mask, says):
    assert verdict(mask) == says


def test_a_view_carries_its_mask_along():
    """Mirrored, cropped or zoomed: the mask still lies on the subject's own pixels."""
    mask = disc(96, 14, x=30, y=60)
    pixels = torch.stack([mask, torch.rand(96, 96), torch.rand(96, 96)])
    photo = photo_from_tensor(torch.cat([pixels, mask[None]]).movedim(0, -1), "p")
    generator = torch.Generator().manual_seed(3)
    for flip in (False, True):
        for _ in range(8):
            image, carried = view(photo, 64, 2.5, flip, generator)
            inside = carried > 0.9
            assert inside.sum() > 60
            assert image[0][inside].min() > 0.85
            assert image[0][carried < 0.05].max() > 0.5  # white paper around the cut-out


def test_saliency_finds_the_demo_subject():
    """U2-NetP on the rendered subject, against the true masks."""
    photos = demo_assets.subject()
    found = mask_set(photos, "saliency", Refinement(feather=0), saliency=SaliencyModel(fetch_u2netp()))
    scores = []
    for true, guess in zip(photos.photos, found.photos, strict=True):
        a, b = true.mask > 0.5, guess.mask > 0.5
        scores.append(float((a & b).sum() / (a | b).sum()))
    print("IoU", [round(s, 2) for s in scores])
    assert sum(scores) / len(scores) > 0.7


@pytest.mark.slow
def test_saliency_masks_real_photos(dreambooth):
    dogs = read_folder(dreambooth / "dog", "dog")
    found = mask_set(dogs, "saliency", Refinement(), saliency=SaliencyModel(fetch_u2netp()))
    assert all(p.mask.shape == p.pixels.shape[-2:] for p in found.photos)
    assert all(0.1 < float(p.mask.mean()) < 0.8 for p in found.photos)


def test_missing_model_names_file_folder_and_source(tmp_path):
    with pytest.raises(AttractorError) as error:
        SaliencyModel(tmp_path / "u2netp.onnx")
    assert all(part in str(error.value) for part in ("u2netp.onnx", str(tmp_path), "rembg", "external"))


def test_damaged_model_is_named(tmp_path):
    broken = tmp_path / "u2netp.onnx"
    broken.write_bytes(fetch_u2netp().read_bytes()[:100_000])
    with pytest.raises(AttractorError, match=r"u2netp\.onnx: not a usable"):
        SaliencyModel(broken)


def test_wrong_number_of_masks_is_refused():
    photos = subject_set([photo_from_tensor(torch.rand(32, 32, 3), f"p{i}") for i in range(2)], "cup")
    with pytest.raises(AttractorError, match="1 mask for 2 photos"):
        mask_set(photos, "external", Refinement(), [torch.ones(32, 32)])


def test_overlay_keeps_the_subject_and_dims_the_rest():
    pixels = torch.full((3, 96, 96), 0.8)
    shown = overlay(pixels, disc())
    assert torch.allclose(shown[:, 48, 48], pixels[:, 48, 48])
    assert shown[0, 2, 2] < 0.3
