"""Whether photos may be trained on: manifests, and what files say of themselves."""

import json
from datetime import date

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.cli.main import main as cli
from attractor_pack.training.photos import read_folder
from attractor_pack.training.rights import check_rights, forbids_training, read_manifest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .conftest import DAY, rows


def test_a_manifest_is_read_in_the_encodings_that_offices_write(photos, tmp_path):
    text = rows(photos, source="東京スタジオ")
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp932"):
        (photos / "manifest.csv").write_bytes(text.encode(encoding))
        found = read_folder(photos, "backpack").photos[0].rights
        assert (found.source, found.consent, found.expires) == ("東京スタジオ", "C-17", date(2030, 1, 31))
    (photos / "manifest.csv").unlink()
    names = [p.name for p in sorted(photos.glob("*.jpg"))]
    (photos / "manifest.json").write_text(json.dumps([{"photo": n, "license": "own"} for n in names]), encoding="utf-8")
    assert read_folder(photos, "backpack").photos[0].rights.licence == "own"


@pytest.mark.parametrize(("text", "said"), [
    ("photo,expires\na.jpg,31.1.2030\n", "row 2: expires is '31.1.2030'"),
    ("photo,expire\na.jpg,2030-01-31\n", "column 'expire' looks like 'expires'"),
    ("photo,training\na.jpg,maybe\n", "row 2: training is 'maybe'"),
    ("photo,consent\na.jpg,1\na.jpg,2\n", "rows 2 and 3 say different things of a.jpg"),
    ("photo,consent\n,1\n", "row 2: 'photo' is empty"),
    ("consent\n1\n", "has no column 'photo'"),
    ("photo,consent\na.jpg,1,2\n", "row 2: has more or fewer cells"),
    ("photo,source,training\na.jpg,no\n", "row 2: has more or fewer cells"),
    ("photo,training,Training\na.jpg,no,yes\n", "has the column 'training' twice"),
    ("photo,training_allowed\na.jpg,no\n", "column 'training_allowed' looks like"),
    ("photo,expiry_date\na.jpg,2020-01-01\n", "column 'expiry_date' looks like"),
    ("photo,consent\n", "has no rows"),
    ("photo,source\na.jpg,\"x\n", "not CSV"),
])  # fmt: skip
def test_a_manifest_that_cannot_be_understood_names_row_and_column(tmp_path, text, said):
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    with pytest.raises(AttractorError, match=said):
        read_manifest(tmp_path / "manifest.csv")


def test_a_manifest_in_no_known_encoding_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"photo\n\x81\x00.jpg\n")
    with pytest.raises(AttractorError, match="not text in UTF-8"):
        read_manifest(tmp_path / "manifest.csv")


def test_ten_thousand_rows_are_read_and_a_photo_without_a_row_is_named(photos, tmp_path):
    many = "photo,consent\n" + "".join(f"{i}.jpg,C{i}\n" for i in range(10_000))
    (tmp_path / "manifest.csv").write_text(many, encoding="utf-8")
    assert len(read_manifest(tmp_path / "manifest.csv")) == 10_000
    (photos / "manifest.csv").write_text("photo,consent\n00.jpg,1\n", encoding="utf-8")
    with pytest.raises(AttractorError, match=r"says nothing of 01\.jpg"):
        read_folder(photos, "backpack")


def test_training_stops_where_it_is_forbidden_or_a_consent_has_ended(photos):
    check_rights(read_folder(photos, "backpack"), DAY)
    with pytest.raises(AttractorError, match=r"00\.jpg: the consent C-17 expired on 2030-01-31"):
        check_rights(read_folder(photos, "backpack"), date(2030, 2, 1))
    (photos / "manifest.csv").write_text(rows(photos, training="no"), encoding="utf-8")
    with pytest.raises(AttractorError, match="manifest forbids training"):
        check_rights(read_folder(photos, "backpack"), DAY)


XMP = (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description plus:DataMining='http://ns.useplus.org/ldf/vocab/"
       b"DMI-PROHIBITED-AIMLTRAINING'/></rdf:RDF></x:xmpmeta>")  # fmt: skip


def test_what_a_file_says_of_itself_stops_training_unless_there_is_a_consent(photos):
    with Image.open(photos / "00.jpg") as picture:
        picture.save(photos / "00.jpg", xmp=XMP)
        packed = PngInfo()
        packed.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        picture.save(photos / "06.png", pnginfo=packed)
    text = rows(photos) + "06.png,studio A,own,C-17,2030-01-31,yes\n"
    (photos / "manifest.csv").write_text(text, encoding="utf-8")
    check_rights(read_folder(photos, "backpack"), DAY)  # the manifest names a consent
    (photos / "manifest.csv").unlink()
    with pytest.raises(AttractorError, match=r"00\.jpg: its metadata says DMI-PROHIBITED-AIMLTRAINING.*06\.png: its"):
        check_rights(read_folder(photos, "backpack"), DAY)


def test_only_what_is_said_of_training_counts():
    told = b'{"c2pa.ai_training": {"use": "%s"}, "c2pa.data_mining": {"use": "notAllowed"}}'
    assert forbids_training(told % b"allowed") == ""
    assert "notAllowed (C2PA)" in forbids_training(told % b"notAllowed")
    assert "constrained (C2PA)" in forbids_training(told % b"constrained")
    assert forbids_training(b"\xa2qc2pa.ai_training\xa1cusejnotAllowed") != "", "as CBOR, which photos hold"
    assert "DMI-PROHIBITED" in forbids_training(b"", XMP.decode().encode("utf-16"))
    assert forbids_training(b"a caption that explains what DMI-PROHIBITED means") == ""


def test_the_command_line_refuses_before_it_loads_a_model(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("attractor_pack.backend.diffusers_model.load", lambda *_: pytest.fail("a model was loaded"))
    (photos / "manifest.csv").write_text(rows(photos, expires="2020-01-01"), encoding="utf-8")
    out = tmp_path / "concept.safetensors"
    code = cli(["train", str(photos), "--word", "backpack", "--model", "demo", "--out", str(out), "--steps", "1"])
    said = capsys.readouterr().err
    assert code == 1 and "expired on 2020-01-01" in said and not out.exists()


def test_a_concept_that_is_there_already_is_said_before_anything_is_trained(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("attractor_pack.backend.diffusers_model.load", lambda *_: pytest.fail("a model was loaded"))
    there = tmp_path / "out" / "mine.safetensors"
    there.parent.mkdir()
    there.write_bytes(b"weeks of work")
    code = cli(["train", str(photos), "--word", "backpack", "--model", "demo", "--out", str(there.parent), "--name",
                "mine", "--when-exists", "refuse"])  # fmt: skip
    said = capsys.readouterr().err
    assert code == 1 and "is there already: choose another --name or --out" in said
    assert there.read_bytes() == b"weeks of work"


def test_a_split_tells_of_each_photo_what_legal_asks(photos, tmp_path):
    """Hashes, split, group of near-duplicates and rights; no place, no EXIF."""
    from PIL import ImageOps

    first = sorted(photos.glob("*.jpg"))[0]
    ImageOps.mirror(Image.open(first)).save(photos / "mirrored.jpg", quality=92)
    (photos / "manifest.csv").write_text(rows(photos), encoding="utf-8")
    assert cli(["split", str(photos), "--held-out", "1", "--json", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    told = {row["photo"]: row for row in found["photos"]}
    assert set(told) == {p.name for p in photos.glob("*.jpg")}
    assert [n for n, row in told.items() if row["split"] == "held_out"] == found["held_out"]
    assert told[first.name]["duplicate_group"] == told["mirrored.jpg"]["duplicate_group"] is not None
    assert sum(row["duplicate_group"] is None for row in told.values()) == len(told) - 2
    for row in told.values():
        assert len(row["sha256"]) == 64 and len(row["phash"]) == 16 and row["rights"]["consent"] == "C-17"
    assert str(photos) not in json.dumps(found)
