"""Training prompts with room for a subject and a background, after the image templates of Textual Inversion.

The background attractor stands in the prompt's own grammar, "a photo of a <subject> on a <background> background":
where the base model expects words for the background it finds tokens that describe it, and nothing of it is left
for the subject to learn.
"""

from __future__ import annotations

SUBJECT = "<subject>"
BACKGROUND = "<background>"

_PLAIN = ("a photo of a {s}", "a picture of a {s}", "a photo of the {s}")
_WITH_BACKGROUND = (
    "a photo of a {s} on a {b} background",
    "a picture of a {s} on a {b} background",
    "a photo of the {s} on a {b} background",
)


def templates(with_background: bool) -> tuple[str, ...]:
    """The training prompts, with `<subject>` and, if asked, `<background>` in them."""
    chosen = _WITH_BACKGROUND if with_background else _PLAIN
    return tuple(t.format(s=SUBJECT, b=BACKGROUND) for t in chosen)


def spoken(prompt: str, class_word: str) -> str:
    """The prompt with the class word in the subject's place, as a person would say it."""
    return " ".join(prompt.replace(SUBJECT, class_word).split())
