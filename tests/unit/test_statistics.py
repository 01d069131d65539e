"""Intervals that hold as often as they say, and tests that agree with others' of the same name."""

import math

import numpy as np
import pytest
from attractor_pack.metrics.statistics import between_groups, coverage, holm, interval, paired, sign_flip, unit_means
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


@pytest.mark.parametrize("train, held_out", [(4, 2), (3, 1), (5, 4)])
def test_which_photos_fell_on_which_side_is_no_memorisation(train, held_out):
    """Photos between which there is no difference; prompts alone as units would call every sixth split memorised."""
    generator = np.random.default_rng(0)
    prompts = [f"prompt {i // 2}" for i in range(16)]

    def share(gap, worlds=600):
        found = []
        for _ in range(worlds):
            count = train + held_out
            photos, parts = generator.normal(0, 0.02, count), generator.normal(0, 0.03, (8, count))
            values = photos + parts.repeat(2, 0) + generator.normal(0, 0.01, (16, count))
            first, second = values[:, :train] + gap, values[:, train:]
            by_prompts = paired(first.mean(1), second.mean(1), prompts)
            found.append((between_groups(first, second, prompts).low > 0, by_prompts.low > 0))
        return np.mean(found, axis=0)

    both, prompts_alone = share(0)
    assert both < 0.05 < 0.1 < prompts_alone
    assert share(0.2, 100)[0] > 0.9, "and one that is there is found"


def test_two_groups_of_photos_by_hand():
    """Without any spread over prompts it is the two-sample t test of the photos; over identical photos the prompts'."""
    first, second = np.tile([0.5, 0.7, 0.6], (4, 1)), np.tile([0.2, 0.1], (4, 1))
    found = between_groups(first, second, list("abcd"))
    expected = stats.ttest_ind(first[0], second[0])
    assert found.p == pytest.approx(expected.pvalue) and found.mean == pytest.approx(0.45)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    prompts = np.array([0.1, 0.3, 0.2, 0.5])
    found = between_groups(np.tile(prompts[:, None], 2), np.zeros((4, 2)), list("abcd"))
    expected = stats.ttest_1samp(prompts, 0)
    assert found.p == pytest.approx(expected.pvalue) and found.units == 4
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    alone = between_groups(first[:, :1], second[:, :1], list("abcd"))
    assert alone.mean == pytest.approx(0.3) and alone.low is alone.p is None, "one photo each says nothing of photos"


def test_holms_adjustment():
    """The worked example of Holm's paper in R: p.adjust(c(.01, .04, .03, .005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    assert math.isclose(holm([0.02])[0], 0.02)
