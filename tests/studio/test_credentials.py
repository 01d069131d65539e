"""Content credentials, signed with keys that the test makes, and read back by C2PA's own reader."""

import datetime
import json

import pytest
import torch
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.metrics.generations import Generated, Generations
from attractor_pack.studio.credentials import SOURCE_TYPE, Signer, credentials
from attractor_pack.training.concept import Concept
from attractor_pack.training.rights import forbids_training
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

CONCEPT = Concept({"l": torch.ones(2, 768)}, "cup", {"train_photos": ["a" * 64], "split_certificate": "b" * 64})


def certificate(name, key, issuer, issuer_key, leaf):
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    made = made.not_valid_after(now + datetime.timedelta(days=9))
    made = made.add_extension(x509.BasicConstraints(not leaf, None), True)
    made = made.add_extension(x509.KeyUsage(leaf, False, False, False, False, not leaf, not leaf, False, False), True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    if leaf:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """A key and its chain, as an authority would give them."""
    folder = tmp_path_factory.mktemp("keys")

    def name(said):
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio")
        return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, said)])

    root, own, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    chain = certificate(name("signer"), own, name("root"), root, True) + certificate(
        name("root"), root, name("root"), root, False)  # fmt: skip
    (folder / "chain.pem").write_bytes(chain)
    for file, key in (("key.pem", own), ("other.pem", other)):
        (folder / file).write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))  # fmt: skip
    return folder


def painted(path, concept=CONCEPT):
    made = Generations(torch.rand(1, 3, 64, 64), (Generated("a <subject>", 3, {"steps": 4}),), "cup", concept)
    path.write_bytes(made.png(0))
    return path


def test_a_signed_picture_says_what_made_it_and_that_it_is_no_photo(pems, tmp_path):
    path = painted(tmp_path / "a.png")
    pixels = Image.open(path).tobytes()
    Signer(pems / "key.pem", pems / "chain.pem").sign(path)
    found = credentials(path)
    assert found["state"] == "Valid" and found["issuer"] == "Studio" and found["source_type"] == SOURCE_TYPE
    assert found["made"]["concept_sha256"] == CONCEPT.sha256 and found["made"]["seed"] == 3
    assert found["made"]["run_card"]["train_photos"] == ["a" * 64]
    picture = Image.open(path)
    assert picture.tobytes() == pixels and json.loads(picture.text["attractor"])["prompt"] == "a <subject>"
    assert forbids_training(path.read_bytes(), b"") == "", "our own mark is taken for a word against training"
    data = bytearray(path.read_bytes())
    data[-200] ^= 255  # of the pixels
    path.write_bytes(data)
    assert credentials(path)["state"] == "Invalid"


def test_pictures_of_other_programs_are_signed_for_the_concept_that_is_given(pems, tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64), "red").save(path)
    signer = Signer(pems / "key.pem", pems / "chain.pem")
    before = path.read_bytes()
    with pytest.raises(AttractorError, match="does not say by which concept"):
        signer.sign(path)
    assert path.read_bytes() == before
    signer.sign(path, CONCEPT)
    assert credentials(path)["made"]["concept_sha256"] == CONCEPT.sha256
    other = Concept({"l": torch.zeros(2, 768)}, "cup", {})
    with pytest.raises(AttractorError, match="another concept painted it"):
        signer.sign(painted(tmp_path / "b.png"), other)


def test_what_cannot_sign_is_named_and_changes_nothing(pems, tmp_path):
    path = painted(tmp_path / "a.png")
    before = path.read_bytes()
    for key, chain, why in (("none.pem", "chain.pem", "none.pem: cannot be read"),
                            ("chain.pem", "chain.pem", "no PRIVATE KEY in PEM"),
                            ("key.pem", "key.pem", "no CERTIFICATE in PEM")):  # fmt: skip
        with pytest.raises(AttractorError, match=why):
            Signer(pems / key, pems / chain)
    with pytest.raises(AttractorError, match="cannot"):
        Signer(pems / "other.pem", pems / "chain.pem").sign(path)
    assert path.read_bytes() == before and not list(tmp_path.glob(".*"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(AttractorError, match="only .jpeg, .jpg, .png, .webp pictures"):
        Signer(pems / "key.pem", pems / "chain.pem").sign(tmp_path / "a.txt")
    with pytest.raises(AttractorError, match="has no content credentials"):
        credentials(path)
