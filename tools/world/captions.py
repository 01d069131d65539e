"""The grammar of captions: what a scene is called, with parts left out at random."""

import numpy as np

from .scene import Scene

MAIN = "a photo of {item} on {background}"
OTHERS = ("a picture of {item} on {background}", "{item} on {background}", "{background} with {item}")
_NOTHING_SAID = ("a photo of {item}", "a picture of {item}", "{item}")


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def item_words(scene: Scene, colour: bool = True, colour2: bool = True, pattern: bool = True) -> str:
    """For example "a red blue striped cup", or less of it."""
    thing = scene.item
    words = [thing.colour] * colour + [thing.colour2] * colour2 + [thing.pattern] * pattern + [thing.kind]
    return article(" ".join(words))


def background_words(scene: Scene, colour: bool = True, kind: bool = True) -> str:
    """For example "a green wooden background", or less of it."""
    words = [scene.background_colour] * colour + [scene.background] * kind + ["background"]
    return article(" ".join(words))


def caption(scene: Scene, rng: np.random.Generator | None = None, full: bool = False) -> str:
    """Name a scene: "a photo of a red blue striped cup on a green wooden background".

    `full` says everything in the main form. Otherwise `rng` picks the form and leaves parts out: the
    second colour is never named without the first, and the background may go unmentioned.
    """
    if full or rng is None:
        return MAIN.format(item=item_words(scene), background=background_words(scene))
    draw = rng.random(8).tolist()
    colour = draw[0] < 0.88
    item = item_words(scene, colour, colour and draw[1] < 0.85, draw[2] < 0.80)
    if draw[3] < 0.10:
        form = _NOTHING_SAID[0 if draw[4] < 0.7 else 1 + int(draw[5] < 0.5)]
        return form.format(item=item)
    form = MAIN if draw[4] < 0.75 else OTHERS[int(draw[5] * len(OTHERS))]
    return form.format(item=item, background=background_words(scene, draw[6] < 0.88, draw[7] < 0.88))
