"""The quality benchmark's tables in Markdown, from the figures of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .masks import QUALITIES
from .methods import Method

Figures = Mapping[str, float]
TITLES = {"same_shoot": "Same shoot: all training photos share background and light",
          "varied": "Varied: every training photo has a background of its own"}  # fmt: skip
ABOUT = (
    "95% cluster-bootstrap intervals over subjects. *leak*: how far backgrounds move from the class word's toward the "
    "training photos' (0 not at all, 1 all the way), over all prompts and by what the prompt says of the background; "
    "*share*: pictures whose background the judge reads as the training photos', less the floor's; *subject*: share of "
    "kind, pattern, both colours, badge and badge's colour that the judge reads rightly; *held-out*: cosine similarity "
    "to held-out photos in the demo's text-image encoder; *prompt*: backgrounds as asked, where the prompt asks; "
    "*gap*: memorisation gap in the same encoder; *diversity*: mean cosine distance between seeds."
)
ABOUT_CHANGES = "Change against ours; an interval that excludes zero is a change that is there."
_COLUMNS = (("leak", "leak"), ("leak.full", "spelt out"), ("leak.partial", "half named"), ("leak.bare", "not named"),
            ("leak_share", "share"), ("subject", "subject"), ("held_out", "held-out"), ("prompt", "prompt"),
            ("gap", "gap"), ("diversity", "diversity"), ("steps", "steps"), ("seconds", "seconds"))  # fmt: skip
_WITH_INTERVAL = ("leak", "subject", "prompt", "gap")


def main_table(figures: Figures, setting: str, methods: Sequence[Method]) -> str:
    """Every method in one setting, intervals below the figures that have them."""
    lines = ["| method | " + " | ".join(title for _, title in _COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for method in methods:
        cells = []
        for measured, _ in _COLUMNS:
            label = f"{setting}.{method.name}.{measured}"
            digits = {"steps": 0, "seconds": 0}.get(measured, 3 if measured == "gap" else 2)
            cell = f"{figures[label]:.{digits}f}"
            if measured in _WITH_INTERVAL and method.name != "floor":
                cell += f" [{figures[label + '_low']:.{digits}f}, {figures[label + '_high']:.{digits}f}]"
            cells.append(cell)
        name = f"**{method.about}**" if method.name == "ours" else method.about
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison(figures: Figures) -> str:
    """Ours against each rival, same shoot."""
    lines = []
    for label, words in (
        ("same_shoot.leak_ratio", "our leak over plain TI's at its published settings"),
        ("same_shoot.subject_diff_best", "our subject fidelity less the best baseline's"),
    ):
        if label in figures:
            lines.append(f"- {words}: {_interval(figures, label)}")
    for label in figures:
        head = "same_shoot.leak_difference."
        if label.startswith(head) and not label.endswith(("_low", "_high")):
            lines.append(f"- our leak less that of `{label.removeprefix(head)}`: {_interval(figures, label)}")
    return "\n".join(lines)


def mask_table(figures: Figures) -> str:
    """Ours beside the mask alone for every quality of mask."""
    titles = ("masks", "overlap with the true ones", "leak, mask alone", "leak, ours", "ratio", "difference",
              "subject, mask alone", "subject, ours")  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for quality in QUALITIES:
        alone, ours = (f"masks.same_shoot.{name}.{quality}" for name in ("mask_only", "ours"))
        lines.append(
            f"| {quality} | {figures[f'{ours}.mask_iou']:.2f} | {_interval(figures, f'{alone}.leak')} | "
            f"{_interval(figures, f'{ours}.leak')} | {figures[f'masks.{quality}.leak_ratio']:.2f} | "
            f"{_interval(figures, f'masks.{quality}.leak_difference')} | {figures[f'{alone}.subject']:.2f} | "
            f"{figures[f'{ours}.subject']:.2f} |"
        )
    return "\n".join(lines)


def ablation_table(figures: Figures, setting: str) -> str:
    """What each change does to leak, subject and prompt."""
    head, tail = f"ablation.{setting}.", ".leak_change"
    names = [k.removeprefix(head).removesuffix(tail) for k in figures if k.startswith(head) and k.endswith(tail)]
    lines = ["| change | leak | subject | prompt |", "|---|---|---|---|"]
    for name in names:
        cells = [_interval(figures, f"{head}{name}.{measured}_change", sign=True)
                 for measured in ("leak", "subject", "prompt")]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(figures: Figures, label: str, sign: bool = False) -> str:
    plus = "+" if sign else ""
    low, high = figures[f"{label}_low"], figures[f"{label}_high"]
    return f"{figures[label]:{plus}.3f} [{low:{plus}.3f}, {high:{plus}.3f}]"
