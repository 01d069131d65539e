"""Which pictures a pilot counts as usable."""

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.studio.pilot import Prices, usable


def report(held_out, nearest, text, ceiling=0.9, pixels=()):
    keys = [{"prompt": f"p{i}", "seed": 0} for i in range(len(held_out))]
    image = {"kind": "image", "floor": 0.3, "ceiling": ceiling, "copies": {"threshold": 0.95}, "pictures": [
        k | {"held_out": h, "nearest_train_similarity": n} for k, h, n in zip(keys, held_out, nearest, strict=True)]}
    words = {"kind": "text", "floor": 0.32, "chance_floor": 0.2, "pictures": [
        k | {"text": t} for k, t in zip(keys, text, strict=True)]}  # fmt: skip
    return {"pictures": keys, "scores": [image, words], "pixel_copies": [{"picture": i} for i in pixels]}


def test_a_picture_is_usable_that_is_the_product_follows_the_prompt_and_copies_nothing():
    found = usable(report([0.61, 0.59, 0.7, 0.7, 0.99, 0.7], [0.8, 0.8, 0.8, 0.96, 0.8, 0.8],
                          [0.27, 0.27, 0.25, 0.3, 0.3, 0.3], pixels=(4,)))  # fmt: skip
    assert [p.why for p in found] == [(), ("subject",), ("prompt",), ("copy",), ("copy",), ()]
    assert [p.usable for p in found] == [True, False, False, False, False, True]


def test_what_cannot_be_told_is_not_usable():
    assert [p.why for p in usable(report([0.9], [0.8], [0.3], ceiling=0.34))] == [("unknown",)]
    assert [p.why for p in usable(report([0.9], [0.8], [0.3], ceiling=None))] == [("unknown",)]
    without = report([0.9], [0.8], [0.3])
    without["scores"] = without["scores"][:1]
    assert usable(without)[0].usable, "without a text encoder the prompt is not asked about"


def test_prices_that_cannot_be_are_refused():
    for wrong in ({"machine_hour": -1.0}, {"shoot": 0.0}, {"photos_per_shoot": 0}, {"review": float("nan")}):
        with pytest.raises(AttractorError):
            Prices(**{"machine_hour": 1.0, "shoot": 100.0, **wrong})
