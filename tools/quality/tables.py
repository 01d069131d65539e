"""The quality benchmark's tables in Markdown, from the figures of its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .. import benchmarks
from .masks import QUALITIES
from .methods import REPRESENTATIONS, Method

Figures = Mapping[str, float]
TITLES = {"same_shoot": "Same shoot: all training photos share background and light, and most of each is background",
          "varied": "Varied: every training photo has a background of its own"}  # fmt: skip
ABOUT = (
    "95% cluster-bootstrap intervals over subjects, expanded for few of them. *leak*: how far the colour of "
    "backgrounds moves from the class word's toward the training photos' (0 not at all, 1 all the way), over all "
    "prompts that do not themselves name the training background's kind or colour, and by what the prompt says; "
    "the floor's own leak is a control, other seeds against the paired ones. *share*: pictures whose background the "
    "judge reads as the training photos', less the floor's; where photos vary it is the one to look at, for the mean "
    "of five backgrounds is a colour that nobody photographed. *subject*: share of kind, pattern, both colours, badge "
    "and badge's colour that the judge reads rightly (of badges' shapes it misreads one in seven). *held-out*: "
    "cosine similarity to held-out photos in the demo's text-image encoder; *prompt*: backgrounds as asked, where"
    " the prompt asks; *gap*: memorisation gap in the same encoder; *diversity*: mean cosine distance between "
    "seeds; *seconds*: masks and training, with as many runs at a time as there are cores. All methods that use "
    "masks get the same, of our back end that is named below (saliency where none is), and views that go nearer to "
    "a subject that is small by them, which *views nearer by masks* has without any weight. The photos of the same "
    "shoot were made harder until the published Textual Inversion leaked."
)
ABOUT_CHANGES = (
    "Change against ours, on subjects of a group of their own; one interval in twenty excludes zero by chance. "
    "Background tokens per shoot are the shared ones where all photos are one shoot, and those per photo where "
    "none share."
)
ABOUT_REPRESENTATIONS = (
    "Same shoot. Each in our loop without masks and tokens, and with both, in the same number of steps, NeTI in three "
    "times as many, for it has a network to learn. {subjects} of the ablation's group, {seeds}."
)
ABOUT_MASKS = (
    "Same shoot, {subjects}, {seeds}. Ours beside the mask-weighted loss alone (no background tokens, and as many "
    "steps in all), both with the same masks: the true ones, those of our back end `auto`, and the true ones "
    "made smaller, larger (each by an eighth of the picture's side) and a box. *overlap*: intersection over union with "
    "the true masks."
)
ABOUT_RELATIVES = (
    "Same shoot. Change against ours by a term of the loss from the literature, on {subjects} of the ablation's group, "
    "{seeds}; one interval in twenty excludes zero by chance. Gradient routing and ConceptPrism learn both "
    "at once: their step is from the first row, which does so with our loss. ConceptPrism (arXiv 2602.19575) is "
    "another method: residual tokens for each photo and no masks, here in our loop, with as many vectors as ours."
)
ABOUT_OPTIONS = (
    "Same shoot. Change against ours by one option each, on {subjects} of the ablation's group, {seeds}; one "
    "interval in twenty excludes zero by chance."
)
_COLUMNS = (("leak", "leak"), ("leak.full", "spelt out"), ("leak.partial", "half named"), ("leak.bare", "not named"),
            ("leak_share", "share"), ("subject", "subject"), ("held_out", "held-out"), ("prompt", "prompt"),
            ("gap", "gap"), ("diversity", "diversity"), ("steps", "steps"), ("seconds", "seconds"))  # fmt: skip
_WITH_INTERVAL = ("leak", "subject", "prompt", "gap")


def section(figures: Figures, methods: Sequence[Method], measured: Mapping[str, str]) -> str:
    """Everything below the heading. measured: when, on what and how often each part was run, and where its methods'
    settings were chosen.
    """
    text = [ABOUT]
    for setting in (one for one in TITLES if one in measured):
        text += [f"### {TITLES[setting]}", f"{measured[setting]}.", main_table(figures, setting, methods),
                 comparison(figures, setting),
                 f"![Pictures of two subjects](benchmarks/quality_{setting}.jpg)"]  # fmt: skip
    text.append("![Subject fidelity against leak](benchmarks/quality_frontier.png)")
    for setting in (one for one in TITLES if f"ablation.{one}" in measured):
        text += [f"### One thing changed at a time, {setting.replace('_', ' ')}",
                 f"{measured[f'ablation.{setting}']}. {ABOUT_CHANGES}", change_table(figures, setting)]  # fmt: skip
    return "\n\n".join(part for part in text if part)


def representation_table(figures: Figures) -> str:
    """Leak, subject and prompt of every representation, plain and with the attractor."""
    lines = ["| representation | leak | subject | prompt | seconds |", "|---|---|---|---|---|"]
    for kind in REPRESENTATIONS:
        for word, about in (("plain", kind), ("attractor", f"{kind} + attractor")):
            label = f"representations.same_shoot.{kind}.{word}"
            cells = [_interval(figures, f"{label}.{measured}") for measured in ("leak", "subject", "prompt")]
            lines.append(f"| {about} | " + " | ".join(cells) + f" | {figures[f'{label}.seconds']:.0f} |")
    return "\n".join(lines)


def write_representations(figures: Figures, seeds: Mapping[str, int]) -> None:
    """The record of the representations, and its section of the page."""
    _write_apart("representations", "Representations, with and without the attractor", figures, ABOUT_REPRESENTATIONS,
                 representation_table, seeds)  # fmt: skip


def write_masks(figures: Figures, seeds: Mapping[str, int]) -> None:
    """The record of masks of every quality, and its section of the page."""
    _write_apart("mask-qualities", "What background tokens add to a mask, and where", figures, ABOUT_MASKS, mask_table,
                 head="masks.", seeds=seeds)  # fmt: skip


def write_options(figures: Figures, seeds: Mapping[str, int]) -> None:
    """The record of the options, and its section of the page."""
    _write_apart("options", "Options of training that are off by default", figures, ABOUT_OPTIONS,
                 lambda found: change_table(found, "same_shoot", "options"), seeds)  # fmt: skip


def write_relatives(figures: Figures, seeds: Mapping[str, int]) -> None:
    """The record of what others have published, and its section of the page."""
    _write_apart("relatives", "Terms of the loss and a method from the literature", figures, ABOUT_RELATIVES,
                 lambda found: change_table(found, "same_shoot", "relatives"), seeds)  # fmt: skip


def _write_apart(
    name: str, title: str, figures: Figures, about: str, table: Callable[[Figures], str], seeds: Mapping[str, int],
    head: str = "",
) -> None:  # fmt: skip
    own = {k: v for k, v in figures.items() if k.startswith(head or f"{name}.")}
    record = benchmarks.write_record(name, own, seeds=seeds)
    words = {"subjects": f"{seeds['subjects']} subjects", "seeds": seeds_in_words(seeds["training"])}
    opening = f"`make bench-{name}` on {record['date']}, {record['machine']}, commit {record['commit']}. "
    benchmarks.write_section(name, title, f"{opening}{about.format(**words)}\n\n{table(own)}")


def seeds_in_words(count: int) -> str:
    """How many training seeds."""
    return "one seed" if count == 1 else f"{count} seeds"


def main_table(figures: Figures, setting: str, methods: Sequence[Method]) -> str:
    """Every method in one setting, intervals below the figures that have them."""
    lines = ["| method | " + " | ".join(title for _, title in _COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for method in methods:
        if f"{setting}.{method.name}.leak" not in figures:
            continue
        cells = []
        for measured, _ in _COLUMNS:
            label = f"{setting}.{method.name}.{measured}"
            digits = {"steps": 0, "seconds": 0}.get(measured, 3 if measured == "gap" else 2)
            if label not in figures:
                cells.append("–")
                continue
            cell = f"{figures[label]:.{digits}f}"
            if measured in _WITH_INTERVAL:
                cell += f" [{figures[label + '_low']:.{digits}f}, {figures[label + '_high']:.{digits}f}]"
            cells.append(cell)
        name = f"**{method.about}**" if method.name == "ours" else method.about
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison(figures: Figures, setting: str) -> str:
    """Ours against each rival in one setting."""
    lines = []
    for label, words in (
        (f"{setting}.leak_ratio", "our leak over that of plain TI as published"),
        (f"{setting}.subject_diff_best", "our subject fidelity less the best baseline's, whichever it is in each draw"),
    ):
        if label in figures:
            lines.append(f"- {words}: {_interval(figures, label)}")
    head = f"{setting}.better_on_both."
    for rival in (label.removeprefix(head) for label in figures if label.startswith(head)):
        labels = (f"{setting}.{measured}_difference.{rival}" for measured in ("leak", "subject"))
        leak, subject = (_interval(figures, label, sign=True) for label in labels)
        lines.append(f"- ours less `{rival}`: leak {leak}, subject {subject}; `{rival}` is better on both in "
                     f"{figures[head + rival]:.0%} of draws")  # fmt: skip
    return "\n".join(lines)


def mask_table(figures: Figures) -> str:
    """Ours beside the mask alone for every quality of mask."""
    titles = ("masks", "overlap", "leak, mask alone", "leak, ours", "difference", "subject, mask alone",
              "subject, ours", "difference")  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for quality in QUALITIES:
        alone, ours = (f"masks.same_shoot.{name}.{quality}" for name in ("mask_only", "ours"))
        leak, subject = (_interval(figures, f"masks.{quality}.{what}_difference", sign=True)
                         for what in ("leak", "subject"))  # fmt: skip
        lines.append(
            f"| {quality} | {figures[f'{ours}.mask_iou']:.2f} | {_interval(figures, f'{alone}.leak')} | "
            f"{_interval(figures, f'{ours}.leak')} | {leak} | {figures[f'{alone}.subject']:.2f} | "
            f"{figures[f'{ours}.subject']:.2f} | {subject} |"
        )
    return "\n".join(lines)


def change_table(figures: Figures, setting: str, name: str = "ablation") -> str:
    """What each change does to leak, subject and prompt."""
    head, tail = f"{name}.{setting}.", ".leak_change"
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
