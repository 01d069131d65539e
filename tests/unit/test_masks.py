"""Weights, grids, external masks and verdicts."""

import pytest
import torch
from attractor_pack.attractor.attention import Gatherer, grid_shape
from attractor_pack.attractor.clicks import overlap
from attractor_pack.attractor.clipseg import TextSegmenter
from attractor_pack.attractor.cosegment import Cosegmentation
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.loss import weighted_error
from attractor_pack.attractor.masks import Refinement, check_mask, pixel_weight, refine, to_latent_grid
from attractor_pack.attractor.overlay import effective_weight, mask_picture, overlay
from attractor_pack.attractor.photo_masks import mask_set
from attractor_pack.attractor.raw_masks import Sources, gather
from attractor_pack.attractor.saliency import SaliencyModel
from attractor_pack.attractor.verdicts import Evidence, verdict
from attractor_pack.tools.models import fetch_u2netp
from attractor_pack.training import demo_assets
from attractor_pack.training.photos import photo_from_tensor, read_folder, subject_set
from attractor_pack.training.views import view

from .conftest import disc


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
        (disc(radius=15, x=24) + disc(radius=7, x=72), "several objects"),
        (disc(radius=18, x=24) + disc(radius=4, x=72), "several objects"),
        (disc(radius=18, x=24) + disc(radius=2, x=72), "good"),
        (disc() * 0.6 + 0.1, "uncertain"),
        (1 - disc(radius=40), "looks inverted"),
    ],
)
def test_verdicts(mask, says):
    assert verdict(mask) == says


def test_verdicts_weigh_what_speaks_for_the_mask():
    assert verdict(disc(), Evidence(confidence=0.5)) == "uncertain"
    assert verdict(disc(), Evidence(1.0, recurs=0.2, known=0.9)) == "disagrees with the other photos"
    assert verdict(disc(), Evidence(1.0, recurs=0.2, known=0.3)) == "good"  # looks like neither: no evidence


def scene(colour, x, y, ground, size=64):
    """A coloured disc on a ground with grain, and its mask."""
    mask = disc(size, 14, x, y)
    pixels = torch.tensor(colour).view(3, 1, 1) * mask + torch.tensor(ground).view(3, 1, 1) * (1 - mask)
    grain = torch.randn(3, size, size, generator=torch.Generator().manual_seed(x)) * 0.03
    return (pixels + grain).clamp(0, 1), mask


def test_coarse_maps_become_masks_by_the_colours_that_recur():
    """One blurred and shifted map a photo: the shared colour and the edges find the disc."""
    places, grounds = ((24, 30), (36, 34), (30, 24)), ((0.2, 0.5, 0.3), (0.3, 0.3, 0.7), (0.7, 0.7, 0.7))
    scenes = [scene((0.8, 0.2, 0.1), x, y, ground) for (x, y), ground in zip(places, grounds, strict=True)]
    maps = [refine(disc(64, 14, x + 4, y + 3), Refinement(feather=90)).double().numpy() for x, y in places]
    raw = [overlap(m, t.numpy()) for m, (_, t) in zip(maps, scenes, strict=True)]
    found = Cosegmentation([p.movedim(0, -1).numpy() for p, _ in scenes]).masks(maps, 1.0)
    fine = [overlap(m, t.numpy()) for m, (_, t) in zip(found, scenes, strict=True)]
    assert max(raw) < 0.8 and min(fine) > 0.93, (raw, fine)


def test_the_knobs_are_not_the_masks_fault():
    photos = subject_set([photo_from_tensor(torch.rand(256, 256, 3), "p")], "cup")
    given = [disc(256, 46, 128, 128)]
    soft = mask_set(photos, "external", Refinement(feather=60), given).photos[0]
    assert soft.verdict == "good", "it was softened on purpose"
    own = [refine(disc(256, 46, 128, 128), Refinement(feather=60))]
    assert mask_set(photos, "external", Refinement(feather=0, fill_holes=False), own).photos[0].verdict == "uncertain"
    with pytest.raises(AttractorError, match="grow -300, .* leave nothing of the mask of p: shrink"):
        mask_set(photos, "external", Refinement(grow=-300, feather=0), given)
    with pytest.raises(AttractorError, match="all zero"):
        mask_set(photos, "external", Refinement(), [torch.zeros(64, 32)])


def test_attention_shares_are_softmax_means_and_fall_on_their_grid():
    q, k = torch.randn(2, 12, 8), torch.randn(2, 77, 8)
    gatherer = Gatherer((3, 4), 77, 100)
    gatherer.take(q, q, 2)
    gatherer.take(q, k, 2)
    (layer,) = gatherer.layers
    heads = [(q[..., h : h + 4] @ k[..., h : h + 4].mT / 2).softmax(-1) for h in (0, 4)]
    assert torch.allclose(layer.cross, sum(heads) / 2, atol=1e-6) and layer.shape == (3, 4)
    assert grid_shape(20 * 15, 80, 60) == (20, 15) and grid_shape(5 * 4, 9, 7) == (5, 4)
    with pytest.raises(AttractorError, match="cells"):
        grid_shape(77, 64, 64)


def test_refinement_in_pixels_and_per_cent():
    by_pixels = refine(disc(), Refinement(grow=3, feather=0, unit="pixels"))
    by_share = refine(disc(), Refinement(grow=100 * 3 / 96, feather=0, unit="per cent"))
    assert torch.equal(by_pixels, by_share) and by_pixels[48, 48 + 26] == 1 and by_pixels[48, 48 + 28] == 0
    with pytest.raises(AttractorError, match="unit"):
        Refinement(unit="inches")


def test_edges_draw_a_mask_to_its_photo():
    pixels, mask = scene((0.9, 0.1, 0.1), 32, 32, (0.1, 0.2, 0.6))
    rough = refine(disc(64, 14, 32, 32), Refinement(feather=60))
    drawn = refine(rough, Refinement(feather=0, edges=60), pixels)
    assert (drawn - mask).abs().mean() < 0.6 * (rough - mask).abs().mean()


def test_the_shown_weight_is_what_the_loss_sees():
    mask = torch.zeros(64, 64)
    mask[:, :16] = 1
    weight, share = effective_weight(mask, 1.0, 8)
    assert share == pytest.approx(1) and weight[0, 0] == pytest.approx(4) and weight[0, 7] == 0
    assert effective_weight(mask, 0.0, 8)[1] == pytest.approx(0.25)
    assert effective_weight(mask, 0.5, 8)[1] == pytest.approx(0.25 / (0.25 + 0.75 / 2))
    picture = mask_picture(torch.rand(3, 48, 96), torch.ones(48, 96), "good", weight, share)
    assert picture.shape[1] > 256 and picture.shape[2] > 512 + 256


def test_auto_says_what_it_did_without(tmp_path):
    def absent():
        raise AttractorError("CLIPSeg is not there")

    sources = gather("auto", {"saliency": lambda: "model", "text": absent})
    assert sources.saliency == "model" and sources.missing == {"text": "CLIPSeg is not there"}
    with pytest.raises(AttractorError, match="not there"):
        gather("text", {"saliency": lambda: "model", "text": absent})
    photos = subject_set([photo_from_tensor(torch.rand(32, 32, 3), "p")], "cup")
    with pytest.raises(AttractorError, match="nothing to work with.*CLIPSeg is not there"):
        mask_set(photos, "auto", Refinement(), sources=Sources(missing=sources.missing))


def test_text_back_end_runs_clipseg_from_a_folder(clipseg_folder):
    segmenter = TextSegmenter(clipseg_folder)
    photo = demo_assets.subject().photos[0].pixels
    first, second = segmenter.raw(photo, "a cup")[0], segmenter.raw(photo, "a shoe")[0]
    assert first.shape == (96, 96) and 0 <= first.min() <= first.max() <= 1
    assert not torch.equal(first, second), "the text makes no difference"
    found = mask_set(demo_assets.subject(), "text", Refinement(), sources=Sources(text=segmenter))
    assert all(p.evidence.sources == ("text",) for p in found.photos)


def test_text_back_end_names_what_is_missing_or_wrong(clipseg_folder, tmp_path):
    with pytest.raises(AttractorError, match="nowhere.*CIDAS"):
        TextSegmenter(tmp_path / "nowhere")
    weights = clipseg_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AttractorError, match="not a usable CLIPSeg"):
        TextSegmenter(clipseg_folder).raw(torch.rand(3, 32, 32), "a cup")
    (clipseg_folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(AttractorError, match="bert model, not CLIPSeg"):
        TextSegmenter(clipseg_folder)


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


@pytest.mark.slow
def test_saliency_finds_the_demo_subject():
    """U2-NetP on the rendered subject, against the true masks."""
    photos = demo_assets.subject()
    found = mask_set(photos, "saliency", Refinement(feather=0), sources=Sources(SaliencyModel(fetch_u2netp())))
    scores = []
    for true, guess in zip(photos.photos, found.photos, strict=True):
        a, b = true.mask > 0.5, guess.mask > 0.5
        scores.append(float((a & b).sum() / (a | b).sum()))
    print("IoU", [round(s, 2) for s in scores])
    assert sum(scores) / len(scores) > 0.7


@pytest.mark.slow
def test_saliency_masks_real_photos(dreambooth):
    dogs = read_folder(dreambooth / "dog", "dog")
    found = mask_set(dogs, "saliency", Refinement(), sources=Sources(SaliencyModel(fetch_u2netp())))
    assert all(p.mask.shape == p.pixels.shape[-2:] for p in found.photos)
    assert all(0.1 < float(p.mask.mean()) < 0.8 for p in found.photos)


def test_missing_model_names_file_folder_and_source(tmp_path):
    with pytest.raises(AttractorError) as error:
        SaliencyModel(tmp_path / "u2netp.onnx")
    assert all(part in str(error.value) for part in ("u2netp.onnx", str(tmp_path), "rembg"))


def test_damaged_model_is_named(tmp_path):
    broken = tmp_path / "u2netp.onnx"
    broken.write_bytes(fetch_u2netp().read_bytes()[:100_000])
    with pytest.raises(AttractorError, match=r"u2netp\.onnx: not a usable"):
        SaliencyModel(broken).raw(torch.rand(3, 32, 32))


def test_wrong_number_of_masks_is_refused():
    photos = subject_set([photo_from_tensor(torch.rand(32, 32, 3), f"p{i}") for i in range(2)], "cup")
    with pytest.raises(AttractorError, match="1 mask for 2 photos"):
        mask_set(photos, "external", Refinement(), [torch.ones(32, 32)])


def test_overlay_keeps_the_subject_and_dims_the_rest():
    pixels = torch.full((3, 96, 96), 0.8)
    shown = overlay(pixels, disc())
    assert torch.allclose(shown[:, 48, 48], pixels[:, 48, 48])
    assert shown[0, 2, 2] < 0.3


def test_large_growth_moves_the_outline_as_a_small_disc_does():
    """Beyond a few pixels the outline is moved by its distance, which is fast; both ways agree where they meet."""
    near, far = (refine(disc(), Refinement(grow=by, feather=0, unit="pixels")) for by in (8, 9))
    assert near.sum() < far.sum() < near.sum() * 1.12 and near[48, 48 + 31] == 1 and far[48, 48 + 32] == 1
    back = refine(disc(), Refinement(grow=-12, feather=0, unit="pixels"))
    assert abs(float(back.sum()) - float(disc(radius=12).sum())) < 60
    assert refine(disc(), Refinement(grow=1e6, feather=0)).min() == 1  # no larger than the photo


def test_what_reaches_in_from_the_side_is_not_the_subject(dreambooth):
    """Another dog's shoulder at the right edge of a dog's photo, which stands out as well."""
    photo = next(p for p in read_folder(dreambooth / "dog6", "dog").photos if p.name == "00.jpg")
    sources = Sources(SaliencyModel(fetch_u2netp()))
    found = mask_set(subject_set([photo], "dog"), "saliency", Refinement(feather=0), sources=sources).photos[0]
    assert found.verdict == "good"
    width = found.mask.shape[1]
    assert float(found.mask[:, int(0.85 * width) :].max()) < 0.1 < 0.5 < float(found.mask[:, : int(0.5 * width)].max())
