"""Every kind of photo file is read as a viewer would show it; damaged ones are named."""

import numpy as np
import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.training.photos import perceptual_hash, photo_from_tensor, read_folder, read_photo
from PIL import Image


def picture(width=60, height=40, seed=0):
    """Smooth colours, so that JPEG and friends come close."""
    y, x = np.mgrid[0:height, 0:width]
    array = np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 9 + seed)], -1)
    return Image.fromarray(array.astype(np.uint8))


def as_array(photo):
    return (photo.pixels.permute(1, 2, 0).numpy() * 255).round()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "avif", "heic"])
def test_formats_give_the_same_picture(tmp_path, suffix):
    if suffix == "heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    path = tmp_path / f"写真 1.{suffix}"
    picture().save(path, quality=95)
    photo = read_photo(path)
    assert photo.name == f"写真 1.{suffix}" and photo.size == (60, 40)
    assert np.abs(as_array(photo) - np.asarray(picture())).mean() < 4


def test_exif_orientation_is_applied(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    photo = read_photo(path)
    assert photo.size == (60, 40)
    assert np.abs(as_array(photo) - np.asarray(picture())).mean() < 4


def test_sixteen_bit_grey_and_cmyk(tmp_path):
    grey = np.asarray(picture().convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    picture().convert("L").save(tmp_path / "grey.png")
    picture().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    for name in ("deep.png", "grey.png"):
        shown = as_array(read_photo(tmp_path / name))
        assert np.abs(shown[..., 0] - grey).max() <= 1 and np.abs(shown[..., 2] - grey).max() <= 1
    assert np.abs(as_array(read_photo(tmp_path / "print.jpg")) - np.asarray(picture())).mean() < 5


def test_alpha_lies_over_white_and_becomes_the_mask(tmp_path):
    cut = picture().convert("RGBA")
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:40] = 255
    cut.putalpha(Image.fromarray(alpha))
    cut.save(tmp_path / "cut.png")
    photo = read_photo(tmp_path / "cut.png")
    assert (as_array(photo)[0, 0] == 255).all()
    assert photo.mask is not None and torch.equal(photo.mask > 0.5, torch.from_numpy(alpha > 0))


def test_animation_gives_its_first_frame(tmp_path):
    frames = [picture(seed=s) for s in range(3)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(as_array(read_photo(tmp_path / "moving.webp")) - np.asarray(frames[0])).mean() < 2


def test_photos_of_all_sizes_live_in_one_set(tmp_path):
    picture(60, 40).save(tmp_path / "b.png")
    picture(31, 90).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not a photo", encoding="utf-8")
    found = read_folder(tmp_path, "dog")
    assert found.names == ["a.png", "b.png"]
    assert [p.size for p in found.photos] == [(31, 90), (60, 40)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("none.jpg", b"", "empty"), ("text.jpg", b"hello, I am a text", "not an image"), ("cut.png", None, "cut short")],
)
def test_damaged_files_are_named(tmp_path, name, content, says):
    path = tmp_path / name
    if content is None:
        picture(300, 200).save(path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(AttractorError, match=says) as error:
        read_photo(path)
    assert name in str(error.value)


@pytest.mark.slow
def test_a_file_with_forty_thousand_pixels_a_side_is_refused(tmp_path):
    Image.new("1", (40000, 40000)).save(tmp_path / "huge.png")
    with pytest.raises(AttractorError, match=r"huge\.png.*(pixels)"):
        read_photo(tmp_path / "huge.png")


def test_perceptual_hash_stays_under_recompression(tmp_path):
    blobs = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    shown = Image.fromarray(blobs).resize((210, 150), Image.Resampling.BICUBIC)
    shown.save(tmp_path / "a.png")
    shown.resize((105, 75)).save(tmp_path / "b.jpg", quality=30)
    a, b = (read_photo(tmp_path / n).pixels for n in ("a.png", "b.jpg"))
    other = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    assert (perceptual_hash(a) ^ perceptual_hash(b)).bit_count() <= 10
    assert (perceptual_hash(a) ^ perceptual_hash(other)).bit_count() > 20


def test_tensor_with_nan_is_refused():
    image = torch.full((32, 32, 3), float("nan"))
    with pytest.raises(AttractorError, match="NaN"):
        photo_from_tensor(image, "image_00")
