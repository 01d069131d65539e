"""Which pictures a pilot counts as usable."""

import math

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.studio.pilot import Mean, Picture, Pilot, Prices, Product, _cost, usable
from attractor_pack.studio.sweep import Run


def report(held_out, nearest, text, ceiling=0.9, pixels=(), floor=0.12):
    keys = [{"prompt": f"p{i}", "seed": 0} for i in range(len(held_out))]
    image = {"kind": "image", "floor": 0.3, "ceiling": ceiling, "copies": {"threshold": 0.95}, "pictures": [
        k | {"held_out": h, "nearest_train_similarity": n} for k, h, n in zip(keys, held_out, nearest, strict=True)]}
    words = {"kind": "text", "pictures": [
        k | {"text": 0.2 + t, "beyond_chance": t, "beyond_chance_floor": floor}
        for k, t in zip(keys, text, strict=True)]}  # fmt: skip
    return {"pictures": keys, "scores": [image, words], "pixel_copies": [{"picture": i} for i in pixels]}


def test_a_picture_is_usable_that_is_the_product_follows_the_prompt_and_copies_nothing():
    found = usable(report([0.61, 0.59, 0.7, 0.7, 0.99, 0.7], [0.8, 0.8, 0.8, 0.96, 0.8, 0.8],
                          [0.07, 0.07, 0.05, 0.1, 0.1, 0.1], pixels=(4,)))  # fmt: skip
    assert [p.why for p in found] == [(), ("subject",), ("prompt",), ("copy",), ("copy",), ()]
    assert [p.usable for p in found] == [True, False, False, False, False, True]


def test_what_cannot_be_told_is_not_usable():
    assert [p.why for p in usable(report([0.9], [0.8], [0.3], ceiling=0.34))] == [("unknown",)]
    assert [p.why for p in usable(report([0.9], [0.8], [0.3], ceiling=None))] == [("unknown",)]
    assert usable(report([0.9], [0.8], [-0.1], floor=0.01))[0].usable, "such a prompt asks nothing"
    without = report([0.9], [0.8], [0.3])
    without["scores"] = without["scores"][:1]
    assert usable(without)[0].usable, "without a text encoder the prompt is not asked about, and the page says so"


def product(shares, seconds=(100.0, 2.0)):
    pictures = [Picture(i, "p", 0, usable) for i, usable in enumerate(shares)]
    return Product("x", Run("x", "attractor", {}, 0), pictures, {"once": seconds[0], "picture": seconds[1]})


def test_each_product_costs_what_its_own_share_asks_for():
    """By hand: a second costs .001 (7.2 an hour, two tasks), a picture .002 and a look at it .50."""
    prices = Prices(machine_hour=7.2, shoot=100.0, photos_per_shoot=5, review=0.5, photos=3.0, setup=900.0)
    half, tenth, none = product([1, 0]), product([1] + [0] * 9), product([0] * 4)
    assert _cost(half, prices, 2) == pytest.approx(3 + 0.1 + 10 * 0.502)
    assert _cost(tenth, prices, 2) == pytest.approx(3 + 0.1 + 50 * 0.502)
    assert _cost(none, prices, 2) == pytest.approx(3 + 0.1 + 4 * 0.502 + 100)
    assert _cost(Product("y", half.run, failed="damaged"), prices, 2) == pytest.approx(3 + 100)
    costs = [_cost(one, prices, 2) for one in (half, tenth, none)]
    found = Pilot([half, tenth, none], Mean.of([0.5, 0.1, 0.0]), Mean.of(costs), prices, {}, 2, 0, True)
    mean = sum(costs) / 3
    assert found.product.value == pytest.approx(mean) and found.product.low < mean < found.product.high
    assert found.even == math.ceil(900 / (100 - mean))
    assert found.total(found.even, mean) <= found.even * 100
    assert found.total(found.even - 1, mean) > (found.even - 1) * 100


def test_products_that_all_came_out_alike_say_nothing_certain_of_others():
    assert Mean.of([1.0, 1.0]) == Mean(1.0, None, None) and Mean.of([0.4]).low is None
    found = Mean.of([0.9, 1.0, 0.2], top=1.0)
    assert 0 <= found.low < found.value < found.high == 1.0


def test_prices_that_cannot_be_are_refused():
    for wrong in ({"machine_hour": -1.0}, {"shoot": 0.0}, {"photos_per_shoot": 0}, {"review": float("nan")}):
        with pytest.raises(AttractorError):
            Prices(**{"machine_hour": 1.0, "shoot": 100.0, **wrong})
