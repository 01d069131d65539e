"""Which object a click means, by one back end and by several, and what is kept of what they saw."""

import numpy as np
import pytest
import torch
from attractor_pack.attractor.clicks import Click, click_on, component_at, overlap, parse_clicks
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.attractor.kept import Kept
from attractor_pack.attractor.masks import Refinement
from attractor_pack.attractor.photo_masks import mask_set
from attractor_pack.attractor.raw_masks import Sources
from attractor_pack.attractor.saliency import SaliencyModel
from attractor_pack.tools.models import fetch_u2netp
from attractor_pack.training.photos import photo_from_tensor, read_photo, subject_set
from PIL import Image

from .conftest import disc


def test_clicks_are_read_by_line_and_by_name():
    names, sizes = ["a.jpg", "b c.png"], [(200, 100), (50, 50)]
    assert parse_clicks("0.5, 0.25\n10 20", names, sizes) == {"a.jpg": Click(0.5, 0.25), "b c.png": Click(0.2, 0.4)}
    box = parse_clicks("b c: 10, 10, 30, 40", names, sizes)["b c.png"]
    assert box.box == (0.2, 0.2, 0.6, 0.8) and (box.x, box.y) == (0.4, 0.5)
    assert parse_clicks("  \n", names, sizes) == {}


@pytest.mark.parametrize(
    ("line", "says"),
    [("1,2,3", "neither a point"), ("x: 1, 2", "not in the set"), ("900, 20", "outside"), ("9, 9, 3, 3", "empty"),
     ("left", "neither")],
)  # fmt: skip
def test_clicks_that_cannot_be_are_named(line, says):
    with pytest.raises(AttractorError, match=says) as error:
        parse_clicks(line, ["a.jpg"], [(200, 100)])
    assert repr(line) in str(error.value)


def test_a_painted_mark_is_a_click_and_chooses_the_part_below_it():
    two = disc(radius=12, x=24) + disc(radius=20, x=70)
    click = click_on(disc(radius=4, x=25, y=47))
    assert click is not None and abs(click.x - 0.26) < 0.02 and abs(click.y - 0.5) < 0.02
    assert overlap(component_at(two.numpy(), click), disc(radius=12, x=24).numpy()) == 1
    assert click_on(torch.zeros(8, 8)) is None


@pytest.mark.slow
def test_one_click_chooses_among_three_toys(dreambooth):
    """A real photo of three toys: saliency alone takes all of them, a click each one."""
    folder = dreambooth.parent / "break-a-scene" / "toys"
    toys = subject_set([read_photo(folder / "img.jpg")], "toy")
    sources = Sources(SaliencyModel(fetch_u2netp()))
    assert mask_set(toys, "saliency", Refinement(), sources=sources).photos[0].verdict == "several objects"
    for i, point in enumerate(("109, 353", "410, 342", "255, 202")):
        clicks = parse_clicks(point, toys.names, [toys.photos[0].size])
        photo = mask_set(toys, "auto", Refinement(feather=0), sources=sources, clicks=clicks).photos[0]
        with Image.open(folder / f"mask{i}.png") as truth:
            true = np.asarray(truth.convert("L")) > 127
        assert overlap(photo.mask.numpy(), true) > 0.85 and photo.verdict == "good"


class Word:
    """In the place of CLIPSeg, whose weights are not here: sees a word where it is told to."""

    cells = 22

    def __init__(self, folder, seen, sure):
        self.folder, self.looked = folder, 0
        self._map, self._sure = torch.from_numpy(seen).float() * sure, sure

    def raw(self, pixels, text):
        self.looked += 1
        return self._map, self._sure


@pytest.fixture(scope="module")
def toys(dreambooth):
    folder = dreambooth.parent / "break-a-scene" / "toys"
    truths = []
    for file in sorted(folder.glob("mask*.png")):
        with Image.open(file) as stored:
            truths.append(np.asarray(stored.convert("L")) > 127)
    return subject_set([read_photo(folder / "img.jpg")], "toy"), truths


def inmost(truth):
    return click_on(torch.from_numpy(truth).float())


@pytest.mark.slow
def test_a_click_is_meant_whatever_the_word_says(toys, tmp_path):
    """With a word that all three toys answer to, and with one that is surely another toy."""
    photos, truths = toys
    saliency = SaliencyModel(fetch_u2netp())
    words = {"all": np.any(truths, 0)} | {k: truths[(k + 1) % 3] for k in range(3)}
    for k, truth in enumerate(truths):
        for name in ("all", k):
            sources = Sources(saliency, text=Word(tmp_path / f"{name}", words[name], 0.999))
            found = mask_set(photos, "auto", Refinement(feather=0), None, sources, {"img.jpg": inmost(truth)}).photos[0]
            iou = overlap(found.mask.numpy(), truth)
            print(k, name, round(iou, 2), found.verdict, round(found.evidence.confidence, 2))
            assert iou > 0.85 and found.verdict == "good"


def test_where_nothing_lies_at_the_click_nothing_is_called_good(toys, tmp_path):
    photos, truths = toys
    sources = Sources(text=Word(tmp_path, truths[1], 0.9))
    found = mask_set(photos, "text", Refinement(feather=0), None, sources, {"img.jpg": inmost(truths[0])}).photos[0]
    assert found.verdict == "uncertain" and found.evidence.confidence == 0
    assert overlap(found.mask.numpy(), truths[1]) < 0.1, "the other toy was not clicked"


def test_what_was_missing_is_looked_for_again(toys, tmp_path):
    photos, truths = toys
    word = Word(tmp_path, truths[1], 0.9)

    def masks():
        sources = Sources(SaliencyModel(fetch_u2netp()), text=word)
        return mask_set(photos, "auto", Refinement(), None, sources), sources.missing

    raw, word.raw = word.raw, lambda *_: (_ for _ in ()).throw(AttractorError("its tokenizer is not there"))
    assert masks()[1] == {"text": "its tokenizer is not there"}
    word.raw = raw
    found, missing = masks()
    assert missing == {} and found.photos[0].evidence.sources == ("saliency", "text")


def test_a_guess_about_a_click_is_no_view(tmp_path):
    """Where saliency sees nothing at a click the word's mask counts by itself."""
    mask = disc(160, 50, 80, 80)
    pixels = torch.tensor((0.8, 0.2, 0.1)).view(3, 1, 1) * mask + 0.4 * (1 - mask)
    photos = subject_set([photo_from_tensor(pixels.movedim(0, -1), "p")], "cup")
    blind = SaliencyModel(fetch_u2netp())
    blind.mask = lambda pixels: torch.zeros(pixels.shape[-2:])
    sources = Sources(blind, text=Word(tmp_path, mask.numpy(), 0.99))
    found = mask_set(photos, "auto", Refinement(feather=0), None, sources, {photos.names[0]: Click(0.4, 0.65)})
    assert found.photos[0].verdict == "good" and found.photos[0].evidence.confidence > 0.9


def test_a_knob_compares_nothing_again_and_cancel_reaches_what_does(toys, tmp_path):
    photos, truths = toys
    word, pulses = Word(tmp_path, truths[1], 0.9), []

    def masks(**knobs):
        pulses.clear()
        sources = Sources(text=word, pulse=lambda: pulses.append(1))
        return mask_set(photos, "text", Refinement(**knobs), None, sources)

    masks()
    assert word.looked == 1 and len(pulses) > 2
    masks(grow=4.0, feather=9.0)
    assert word.looked == 1 and len(pulses) == 1, "once for the photo that is refined"


def test_what_is_kept_is_limited_by_its_size():
    kept, made = Kept(3000), []

    def get(key, size=1000):
        return kept.get(key, lambda: made.append(key) or (np.zeros(size, np.uint8), 1.0))

    for key in ("a", "b", "a", "c", "a"):
        get(key)
    assert made == ["a", "b", "c"] and "b" not in kept, "the one that was not asked for longest goes"
    get("large", 9000)
    assert "large" in kept and "a" not in kept
    private = ("d", (object(),))
    get(private)
    assert private not in kept and get(private) and made.count(private) == 2


def test_clicks_in_pixels_are_the_files_pixels(tmp_path):
    """A photo that is stored smaller than its file: the user types what any viewer shows."""
    from PIL import Image

    Image.new("RGB", (4000, 3000)).save(tmp_path / "large.png")
    photo = read_photo(tmp_path / "large.png")
    assert photo.size == (2048, 1536) and photo.shown_size == (4000, 3000)
    click = parse_clicks("1000, 1500", [photo.name], [photo.shown_size])[photo.name]
    assert (click.x, click.y) == (0.25, 0.5)
    with pytest.raises(AttractorError, match="one line too many"):
        parse_clicks("1, 1\n2, 2", [photo.name], [photo.shown_size])
    with pytest.raises(AttractorError, match="neither a point"):
        parse_clicks("nan, 1", [photo.name], [photo.shown_size])
