"""Intervals that hold as often as they say, and tests that agree with others' of the same name."""

import math

import numpy as np
import pytest
from attractor_pack.metrics.statistics import coverage, holm, interval, paired, sign_flip, unit_means
from scipy import stats


@pytest.mark.parametrize("units", [4, 8, 20])
def test_intervals_hold_in_simulated_worlds(units):
    assert 0.9 < coverage(units, worlds=400) < 0.98


def test_sign_flips_agree_with_scipys():
    generator = np.random.default_rng(0)
    for count in (3, 8, 12):
        means = generator.normal(0.4, 1, count)
        found = stats.permutation_test((means,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip(means) == pytest.approx(found.pvalue, abs=1e-9)
    many = generator.normal(0.3, 1, 40)
    assert sign_flip(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)
    assert sign_flip(np.ones(5)) == 2 / 32


def test_few_units_get_students_interval():
    means = np.array([0.1, 0.3, 0.2, 0.5])
    expected = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    assert interval(means) == pytest.approx(expected)
    wide = np.random.default_rng(1).normal(0, 1, 200)
    assert interval(wide) == pytest.approx(stats.t.interval(0.95, 199, wide.mean(), stats.sem(wide)), abs=0.02)


def test_pictures_of_a_prompt_count_once():
    """A prompt with many seeds weighs no more than one with few, and its pictures add no certainty."""
    values, units = [1.0] * 30 + [0.0, 0.2], ["a"] * 30 + ["b", "c"]
    found = paired(values, [0.0] * 32, units)
    assert found.units == 3 and found.mean == pytest.approx(0.4)
    again = paired(values[:1] + values[30:], [0.0] * 3, ["a", "b", "c"])
    assert (found.low, found.high, found.p, found.effect) == (again.low, again.high, again.p, again.effect)
    assert list(unit_means(np.arange(4.0), ["x", "y", "x", "y"])) == [1, 2]
    alone = paired([1.0, 2.0], [0.0, 0.0], ["one", "one"])
    assert alone.mean == 1.5 and alone.low is alone.p is alone.effect is None
    nothing = paired([1.0, 2.0], [1.0, 2.0], ["one", "other"])
    assert nothing.mean == 0 and nothing.p == 1 and nothing.effect is None


def test_holms_adjustment():
    """The worked example of Holm's paper in R: p.adjust(c(.01, .04, .03, .005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    assert math.isclose(holm([0.02])[0], 0.02)
