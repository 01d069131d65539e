"""What the page's own panels are told (web/): live curves while a node trains, and pictures and verdicts after it."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import folder_paths
from PIL import Image
from torch import Tensor

from ...attractor.errors import AttractorError
from ...attractor.files import write_beside
from ...attractor.masks import to_latent_grid
from ...metrics.generations import Generations, to_picture
from ...metrics.verdict import Verdict
from ...studio.gate import Decision
from ...training.history import History
from ...training.views import centre_view

CURVE = "attractor.curve"
_SUBFOLDER = "attractor"
_POINTS = 300  # of the loss of every step that the page is told at once
_SIDE = 512  # of the photos in the mask panel, pixels

_PAGES = 64  # that are remembered at most
_SMALL = 256  # pixels of a thumbnail
_NONE = {"attractor": []}  # no panel: the host joins what a node gives for each of a list by the keys of the first

running: dict[str, dict] = {}  # by node id: the curve of a training that goes on, for a page that was loaded anew
finished: dict[str, dict] = {}  # by node id: what nodes of the graph that runs have shown, until its history has it
_drawing: dict[str, None] = {}  # client ids of the pages that draw curves themselves, the latest last


def _or_nothing(panel: Callable[..., dict]) -> Callable[..., dict]:
    """A panel whose pictures cannot be written is left out: the node's own work is done and must not be lost."""

    @functools.wraps(panel)
    def made(*given: Any) -> dict:
        try:
            return panel(*given)
        except (OSError, AttractorError) as error:
            logging.warning("attractor: the page's panel is left out, its pictures cannot be written: %s", error)
            return dict(_NONE)

    return made


def tell_curve(node_id: str | None, message: dict) -> None:
    """Send a running training's curve to the page that queued it, and keep it for when that page is loaded again.

    A page that draws none is not told: front ends complain of messages that nobody takes.
    """
    server = _server()
    if server is None or node_id is None:
        return
    prompt = getattr(server, "last_prompt_id", None)
    running[node_id] = {"node": node_id, "prompt_id": prompt, "client": server.client_id, **message}
    if page_draws():
        server.send_sync(CURVE, shown(running[node_id]), server.client_id)


def _keep_for_a_reload(panel: dict) -> None:
    """A page that is loaded anew in the middle of a run finds what its nodes have shown."""
    server = _server()
    node_id, prompt = getattr(server, "last_node_id", None), getattr(server, "last_prompt_id", None)
    if server is None or node_id is None:
        return
    for other in [key for key, one in finished.items() if one["prompt_id"] != prompt]:
        del finished[other]
    one = finished.setdefault(node_id, {"node": node_id, "prompt_id": prompt, "client": server.client_id, "found": []})
    one["found"].append(panel)  # a list comes item by item


def shown(told: dict) -> dict:
    """What a page is told: not whose it is."""
    return {key: value for key, value in told.items() if key != "client"}


def forget_curve(node_id: str | None) -> None:
    """A training has ended: its curve comes with the node's output from now on."""
    running.pop(node_id or "", None)


def page_draws() -> bool:
    """Whether the page that queued the running graph draws curves itself."""
    server = _server()
    return server is not None and server.client_id in _drawing


def page_says(client_id: str, draws: bool) -> None:
    """Whether the page of this client id draws curves itself."""
    _drawing.pop(client_id, None)
    if draws:
        _drawing[client_id] = None
    while len(_drawing) > _PAGES:
        del _drawing[next(iter(_drawing))]


def curve(history: History) -> dict[str, Any]:
    """A history as the page's panel takes it: lists of [step, loss]; the loss of every step is thinned out."""
    every = max(1, -(-len(history.losses) // _POINTS))

    def points(values: Sequence[tuple[int, float]]) -> list:
        return [[step, round(float(value), 6)] for step, value in values]

    return {
        "losses": points(history.losses[::every]),
        "background": points(history.background),
        "train": points(history.train),
        "held_out": points(history.held_out),
        "kept": history.best_step,
        "stopped": history.stopped,
        "notes": list(history.notes),
    }


@_or_nothing
def masks(subjects: Sequence[Any], strength: float, cells: int, advice: dict[str, str]) -> dict:
    """Photos with their masks, small, and the mean of the mask in each cell of the training view's latent grid: what
    the page needs to show any strength without asking.
    """
    if not page_draws():
        return dict(_NONE)
    photos = []
    for photo in (photo for subject in subjects for photo in subject.photos):
        large = to_picture(photo.pixels)
        large.thumbnail((_SIDE, _SIDE))
        mask = _grey(photo.mask).resize(large.size, Image.Resampling.BOX)
        grid = _grey(to_latent_grid(centre_view(photo.mask)[None], cells, cells)[0, 0])
        photos.append({
            "name": photo.name, "verdict": photo.verdict, "advice": advice.get(photo.verdict, ""),
            "covers": round(float(photo.mask.mean()), 4), "photo": _kept(large, "JPEG"), "mask": _kept(mask, "PNG"),
            "grid": _kept(grid, "PNG"),
        })  # fmt: skip
    return _panel("masks", strength=strength, cells=cells, photos=photos)


@_or_nothing
def pictures(made: Generations) -> dict:
    """Pictures with their prompt and seed, each small and large."""
    if not page_draws():
        return dict(_NONE)
    items = []
    for image, item in zip(made.images, made.items, strict=True):
        large = to_picture(image)
        small = large.copy()
        small.thumbnail((_SMALL, _SMALL))
        files = {"small": _kept(small, _form(small)), **_kept(large, _form(large))}
        items.append({**files, "prompt": item.prompt, "seed": item.seed})
    word = made.class_word if made.concept is None else f"concept ({made.concept.class_word})"
    return _panel("pictures", pictures=items, subject=word)


def verdicts(named: Sequence[tuple[str, Verdict]], page: Path | None) -> dict:
    """Verdicts, each with the name of its run, and the page that says more."""
    found = [
        {
            "name": name, "grade": verdict.grade, "headline": verdict.headline,
            "answers": [{"question": a.question, "grade": a.grade, "text": a.text} for a in verdict.answers],
        }
        for name, verdict in named
    ]  # fmt: skip
    return _panel("verdicts", verdicts=found, page=f"{page.parent.name}/{page.name}" if page else "")


def decision(made: Decision) -> dict:
    """What a release gate decided, rule by rule."""
    answers = [
        {
            "question": rule.measure, "grade": "pass" if rule.holds(found.value) else "block",
            "text": f"{found.said} ({rule.limit} asked). {rule.why}",
        }
        for rule, found in made.rules
    ]  # fmt: skip
    broken = ", ".join(rule.measure for rule, _ in made.broken)
    said = f"blocked by {broken}" if broken else "nothing speaks against it"
    shown = {"name": "", "grade": "block" if broken else "pass", "answers": answers,
             "headline": f"{made.policy.name}: {said}"}  # fmt: skip
    return _panel("verdicts", verdicts=[shown], page="")


def panel_of_training(ended: Sequence[tuple[str, History]]) -> dict:
    """The curves of trainings that have ended, each with its class word; the first was shown while they went on."""
    return _panel("training", curves=[{"word": word, **curve(history)} for word, history in ended])


def panel_of_study(link: str, votes: int, raters: int) -> dict:
    """Where to vote, and how many did."""
    return _panel("study", link=link, votes=votes, raters=raters)


def _panel(kind: str, **content: Any) -> dict:
    panel = {"kind": kind, **content}
    _keep_for_a_reload(panel)
    return {"attractor": [panel]}


def _form(picture: Image.Image) -> str:
    """JPEG for what is large, or it would be megabytes each."""
    return "PNG" if max(picture.size) <= _SMALL else "JPEG"


def _grey(mask: Tensor) -> Image.Image:
    """[H, W] in [0, 1] as a grey picture."""
    return to_picture(mask[None].expand(3, -1, -1)).convert("L")


def _kept(picture: Image.Image, form: str) -> dict[str, str]:
    """Where the host gives out a picture that was put into its temporary folder, named by its content."""
    held = io.BytesIO()
    picture.save(held, format=form, quality=90, compress_level=1)
    name = f"{hashlib.sha256(held.getvalue()).hexdigest()[:24]}.{'jpg' if form == 'JPEG' else 'png'}"
    folder = Path(folder_paths.get_temp_directory()) / _SUBFOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        write_beside(folder / name, lambda path: path.write_bytes(held.getvalue()))
    return {"filename": name, "subfolder": _SUBFOLDER, "type": "temp"}


def _server() -> Any:
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
