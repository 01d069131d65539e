"""Sets of many subjects, as users lay them out, and what is said over them."""

import json
import shutil

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.studio.sets import find_subjects
from attractor_pack.studio.summary import over_subjects, table


def read_set(folder, held_out, seed):
    return [found.read(held_out, seed) for found in find_subjects(folder)]


@pytest.fixture
def pdst(tmp_path, dreambooth):
    """Two subjects, each split beforehand, with prompts for all and some of one's own."""
    for name, source in (("rex", "dog"), ("red clock", "clock")):
        for part, photos in (("train", ("00.jpg", "01.jpg")), ("test", ("03.jpg",))):
            (tmp_path / name / part).mkdir(parents=True)
            for photo in photos:
                shutil.copy(dreambooth / source / photo, tmp_path / name / part / photo)
    (tmp_path / "prompts.txt").write_text("a <subject> on the moon\n\na <subject> in the snow\n", encoding="utf-8")
    (tmp_path / "rex" / "class.txt").write_text("\ufeffdog\n", encoding="utf-8")
    (tmp_path / "rex" / "prompts.txt").write_text("a <subject> asleep\n", encoding="utf-8")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_a_set_that_is_split_beforehand(pdst):
    clock, rex = read_set(pdst, 1, 0)
    assert (rex.name, rex.train.class_word, rex.prompts) == ("rex", "dog", ("a <subject> asleep",))
    assert clock.train.class_word == "red clock" and len(clock.prompts) == 2
    assert (clock.train.names, clock.test.names) == (["00.jpg", "01.jpg"], ["03.jpg"])


def test_a_manifest_beside_train_and_test_is_of_both(pdst):
    """What it forbids is known of every photo, on all roads: read here, and in the parcel that goes to a worker."""
    from attractor_pack.studio.plan import Plan
    from attractor_pack.studio.sweep import parcel_of
    from attractor_pack.training.rights import check_rights

    manifest = pdst / "rex" / "manifest.csv"
    manifest.write_text("photo,training\n00.jpg,no\n01.jpg,yes\n03.jpg,yes\n", encoding="utf-8")
    folder = find_subjects(pdst)[1]
    with pytest.raises(AttractorError, match=r"00\.jpg: the manifest forbids training"):
        check_rights(folder.read(1, 0).train)
    plan = Plan(str(pdst))
    parcel = parcel_of(folder, plan, {})
    assert {"train/manifest.csv", "test/manifest.csv"} <= set(parcel.files)
    manifest.write_text("photo,training\n00.jpg,yes\n01.jpg,yes\n03.jpg,yes\n", encoding="utf-8")
    assert parcel_of(folder, plan, {}).key != parcel.key, "what it says is no part of what the work follows from"
    shutil.copy(manifest, pdst / "rex" / "train" / "manifest.csv")
    with pytest.raises(AttractorError, match="Keep one of them"):
        find_subjects(pdst)[1].read(1, 0)


def test_a_test_photo_that_is_a_copy_of_a_train_photo_is_refused(pdst, dreambooth):
    from PIL import Image, ImageOps

    ImageOps.mirror(Image.open(dreambooth / "dog" / "01.jpg")).save(pdst / "rex" / "test" / "new.png")
    with pytest.raises(AttractorError, match="rex: .*new.png"):
        read_set(pdst, 1, 0)


def test_what_is_missing_is_named(pdst, tmp_path_factory):
    (pdst / "prompts.txt").write_text("a dog on the moon", encoding="utf-8")
    with pytest.raises(AttractorError, match="'a dog on the moon' has no <subject>"):
        read_set(pdst, 1, 0)
    (pdst / "prompts.txt").unlink()
    with pytest.raises(AttractorError, match=r"red clock: no prompts. Write .*prompts\.txt"):
        read_set(pdst, 1, 0)
    with pytest.raises(AttractorError, match="no folder in it holds photos"):
        read_set(tmp_path_factory.mktemp("empty"), 1, 0)
    with pytest.raises(AttractorError, match="no such folder"):
        read_set(pdst / "nowhere", 1, 0)


def test_dreambooths_own_folder_is_read_as_it_is(dreambooth, tmp_path):
    for name in ("dog", "clock"):
        (tmp_path / name).mkdir()
        for photo in ("00.jpg", "01.jpg", "02.jpg"):
            shutil.copy(dreambooth / name / photo, tmp_path / name / photo)
    shutil.copy(dreambooth / "prompts_and_classes.txt", tmp_path)
    clock, dog = read_set(tmp_path, 1, 0)
    assert len(clock.train) == 2 and len(clock.test) == 1
    assert len(dog.prompts) == 25 and "a <subject> wearing a red hat" in dog.prompts
    assert len(clock.prompts) == 25 and "a <subject> with the Eiffel Tower in the background" in clock.prompts


def report(values):
    keys = [(f"p{i}", 0) for i in range(4)]
    rows = [{"prompt": p, "seed": s, "text": values[i] + 0.01 * i} for i, (p, s) in enumerate(keys)]
    return {"pictures": [{"prompt": p, "seed": s} for p, s in keys], "held_out_photos": ["x"], "scores": [
        {"stamp": {"encoder": "e", "weights": "w"}, "kind": "text", "region": "whole", "pictures": rows}]}  # fmt: skip


def test_subjects_are_the_units_where_there_are_several():
    """A gain that is the same for each subject is certain over three; over one, prompts are the units. Seeds of the
    training are averaged first: they are no units of their own."""
    gains = (("a", 0.1), ("b", 0.12), ("c", 0.11))
    ours = {s: [report([0.4 + d] * 4), report([0.6 + d] * 4)] for s, d in gains}
    plain = {s: [report([0.5] * 4), report([0.5] * 4)] for s in ours}
    row = over_subjects({"plain": plain, "ours": ours})[0]
    assert row["means"] == pytest.approx([0.515, 0.625]) and row["differences"][0]["units"] == 3
    assert row["differences"][0]["low"] > 0.05
    one = over_subjects({"plain": {"a": plain["a"]}, "ours": {"a": ours["a"]}})[0]
    assert one["differences"][0]["units"] == 4 and one["differences"][0]["mean"] == pytest.approx(0.1)
    text = table({"methods": ["plain", "ours"], "subjects": ["a", "b", "c"], "rows": [row]})
    assert "ours less plain" in text and "+0.110" in text
    json.dumps(row)
