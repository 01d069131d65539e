"""The judge reads pictures that it never saw."""

from __future__ import annotations

import pytest
import torch
from attractor_pack.tools import judge as judges
from attractor_pack.tools.pretrain.judge import accuracy, held_out


@pytest.mark.slow
def test_the_judge_reads_unseen_renders():
    pictures, labels = held_out(0, 600)
    found = accuracy(judges.load(), pictures, labels)
    for factor in ("kind", "pattern", "colour", "colour2", "background", "background_colour"):
        assert found[factor] >= 0.98, (factor, found)
    assert found["badge_colour"] >= 0.95 and found["badge"] >= 0.8


def test_the_judge_refuses_a_picture_of_another_size():
    with pytest.raises(ValueError, match="64, 64"):
        judges.load().read(torch.rand(1, 3, 32, 32))
