"""The rendered world: what it says of itself is true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attractor_pack.tools.pretrain.text import FUNCTION_WORDS
from attractor_pack.tools.world import (
    BACKGROUNDS,
    COLOUR_NAMES,
    COLOURS,
    KINDS,
    PATTERNS,
    Distractions,
    Scene,
    Thing,
    caption,
    held_back,
    render,
    sample_scene,
    sample_subject,
    subject_photos,
)

PLAIN = Scene(Thing("cup", "plain", "red", "blue"), "plain", "white")


def scenes(count, **how):
    return [sample_scene(np.random.default_rng((3, i)), **how) for i in range(count)]


def test_the_mask_is_where_the_item_changed_the_picture():
    for kind in KINDS:
        scene = replace(PLAIN, item=replace(PLAIN.item, kind=kind))
        picture, mask = render(scene)
        empty, _ = render(replace(scene, item=replace(scene.item, x=5.0)))
        changed = np.abs(picture.astype(int) - empty.astype(int)).sum(-1) > 24
        assert (changed == (mask > 0.1)).mean() > 0.99, kind
        assert 0.05 < mask.mean() < 0.5, kind


def test_every_kind_has_a_silhouette_of_its_own():
    masks = {}
    for kind in KINDS:
        masks[kind] = render(replace(PLAIN, item=replace(PLAIN.item, kind=kind)))[1] > 0.5
    assert len(masks) >= 12
    for a in KINDS:
        for b in KINDS:
            if a < b:
                overlap = (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum()
                assert overlap < 0.85, (a, b, overlap)


@pytest.mark.parametrize(("field", "value"), [
    ("shadow", 0.5), ("reflection", 0.3), ("light", 0.2), ("noise", 0.04), ("cast", (1.1, 1.0, 0.9)),
    ("neighbour", Thing("shoe", "plain", "green", "black", x=0.0, y=0.4, size=0.35)),
])  # fmt: skip
def test_each_distraction_changes_the_picture_and_never_the_mask(field, value):
    picture, mask = render(PLAIN)
    other, same = render(replace(PLAIN, **{field: value}))
    outside = mask < 0.01
    assert np.abs(other.astype(int) - picture.astype(int))[outside].max() > 8
    assert np.array_equal(mask, same)


def test_distractions_can_be_switched_off():
    for scene in scenes(40, distractions=Distractions.none()):
        assert not (scene.shadow or scene.reflection or scene.light or scene.noise or scene.neighbour)
        assert scene.cast == (1.0, 1.0, 1.0)


def test_pretraining_never_sees_a_combination_that_is_held_back():
    looks = [s.item for s in scenes(600)]
    assert not any(held_back(t.kind, t.pattern, t.colour, t.colour2) for t in looks)
    share = np.mean([held_back(k, p, a, b) for k in KINDS for p in PATTERNS for a in COLOUR_NAMES
                     for b in COLOUR_NAMES if a != b])  # fmt: skip
    assert 0.12 < share < 0.18
    subject = sample_subject(4)
    assert held_back(subject.kind, subject.pattern, subject.colour, subject.colour2)
    assert subject.detail.colour not in (subject.colour, subject.colour2)


def test_photos_of_one_shoot_share_their_background_and_others_do_not():
    subject = sample_subject(4)
    shoot = subject_photos(subject, 5, "same_shoot", 1)
    seen = {(p.scene.background, p.scene.background_colour) for p in shoot}
    assert len(seen) == 1 and len({p.scene.item.x for p in shoot}) == 5
    varied = subject_photos(subject, 6, "varied", 2, avoid=tuple(seen))
    there = [(p.scene.background, p.scene.background_colour) for p in varied]
    assert len(set(there)) == 6 and not seen & set(there)
    with pytest.raises(ValueError, match="same_shoot"):
        subject_photos(subject, 2, "other")


def test_captions_leave_parts_out_and_use_known_words_only():
    known = {*FUNCTION_WORDS, *KINDS, *COLOUR_NAMES, *PATTERNS, *BACKGROUNDS}
    scene = scenes(1)[0]
    said = {caption(scene, np.random.default_rng(i)) for i in range(200)}
    assert len(said) > 20
    assert all(set(text.split()) <= known for text in said)
    full = caption(scene, full=True)
    assert all(word in full.split() for word in (scene.item.kind, scene.item.colour, scene.item.colour2,
                                                 scene.background, scene.background_colour))  # fmt: skip


def test_the_same_scene_gives_the_same_picture_and_colours_are_as_named():
    scene = scenes(1)[0]
    assert np.array_equal(render(scene)[0], render(scene)[0])
    for name, value in COLOURS.items():
        picture, mask = render(replace(PLAIN, item=replace(PLAIN.item, colour="green"), background_colour=name))
        assert np.abs(picture[mask < 0.01].mean(0) - value).max() < 14, name
