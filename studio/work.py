"""What a worker does with a part of a sweep: bytes and plain data in, bytes and plain data out.

Nothing here writes to a store or knows who called: the same functions run in a Ray worker and in a plain loop. A task
brings its photos along as bytes, so that machines need not share a folder; model, encoders and models for masks are
looked for on the worker's own disk, and model and encoders are checked to be those of the plan.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from ..attractor.clipseg import FOLDER_NAME
from ..attractor.errors import AttractorError
from ..attractor.photo_masks import mask_set
from ..attractor.saliency import KINDS
from ..backend.sources import in_folders, mask_sources, model_folders
from ..metrics.encoders import encoder_file, load_encoder, not_installed
from ..metrics.generations import Generated, Generations, eight_bit
from ..metrics.page import write_report
from ..metrics.scores import score
from ..metrics.splits import Certificate
from ..metrics.weights import KNOWN
from ..training import demo_assets
from ..training.concept import Concept, save_concept
from ..training.loop import train
from ..training.photos import SUFFIXES, SubjectSet, read_folder
from ..training.rights import check_rights
from ..training.run_card import VERSION
from ..training.settings import TrainSettings
from ..training.together import Job, train_together
from ..training.views import VERSION as VIEWS
from .manifest import manifest
from .plan import Plan
from .sets import Case, Folder

PREPARED = "prepared.safetensors"
PREPARED_OF = "attractor_prepared_of"  # in its metadata: SHA-256 of the photos, for whoever must forget one
_CASES = 4  # subjects that a worker keeps in memory
_BLOCK, _BLOCKS = 1 << 16, 64  # of a large file, that stand for it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parcel:
    """One subject on its way to a worker. files: by their path below its folder. key: hash of what it follows from."""

    key: str
    name: str
    word: str
    prompts: tuple[str, ...]
    files: dict[str, bytes]

    @property
    def photos(self) -> list[str]:
        """SHA-256 of its photos."""
        files = (data for path, data in self.files.items() if PurePosixPath(path).suffix.lower() in SUFFIXES)
        return sorted(hashlib.sha256(data).hexdigest() for data in files)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Its files on this machine's disk, for a while."""
        with tempfile.TemporaryDirectory(prefix="attractor-") as name:
            for path, data in self.files.items():
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                    raise AttractorError(f"{self.name}: {path} leads out of its folder.")
                file = Path(name) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            yield Path(name)


def prepare(plan: dict, stamps: dict, parcel: dict) -> dict:
    """Split and mask a subject, and paint its prompts with the class word alone, once for all of its runs.

    Gives {"files": {PREPARED: bytes}, "info": …, "seconds", "worker"}, or {"error": why}.
    """
    started = time.perf_counter()
    try:
        with _ready(plan, stamps) as (made, model), torch.inference_mode(False):
            sent = Parcel(**parcel)
            with sent.folder() as folder:
                case = _read(sent, folder, made)
            for photos in (case.train, case.test):
                check_rights(photos)
            how, folders = made.masking, model_folders(made.models or None)
            sources = mask_sources(how.backend, how.saliency_model, folders, lambda: model)
            masked = mask_set(case.train, how.backend, how.refinement(), None, sources)
            base = _paint(model, None, case, made)
        info = {"train": masked.names, "held_out": case.test.names, "word": case.train.class_word,
                "certificate": case.train.certificate and json.loads(case.train.certificate.to_json()),
                "photos": manifest(case.train, case.test),
                "verdicts": {p.name: p.judgement() for p in masked.photos}, "without": dict(sources.missing),
                "items": [asdict(item) for item in base.items], "base_model": base.base_model}  # fmt: skip
        tensors = {f"mask/{i}": _bits(p.mask) for i, p in enumerate(masked.photos) if p.mask is not None}
        tensors["base"] = _bits(base.images)
        seen = [p.sha256 for p in (*case.train.photos, *case.test.photos)]
        data = write_tensors(tensors, metadata={"info": json.dumps(info, sort_keys=True),
                                                PREPARED_OF: json.dumps(sorted(seen))})  # fmt: skip
        return {"files": {PREPARED: data}, "info": info, "seconds": time.perf_counter() - started, "worker": _here()}
    except Exception as error:  # a worker says what it could not do, whatever it was
        return {"error": _reason(error), "worker": _here()}


def perform(plan: dict, stamps: dict, parcels: Sequence[dict], prepared: Sequence[bytes], runs: Sequence[dict]) -> list:
    """Train runs in one batch, then paint and score each.

    runs: {"key", "subject" (its place in parcels), "method", "settings"}. Gives for each {"key", "files", "seconds",
    "worker"}, or {"key", "error"}: what fails fails alone.
    """
    try:
        with _ready(plan, stamps) as (made, model), torch.inference_mode(False):
            subjects = [_case_or_why(parcel, data) for parcel, data in zip(parcels, prepared, strict=True)]
            encoders = _encoders(made)
            good = [run for run in runs if not isinstance(subjects[run["subject"]], str)]
            wanted = [(subjects[run["subject"]][0], TrainSettings(**run["settings"])) for run in good]
            started = time.perf_counter()
            trained = dict(zip([run["key"] for run in good], _train(model, wanted), strict=True))
            each = (time.perf_counter() - started) / max(1, len(good))
            found = []
            for run in runs:
                one, key = subjects[run["subject"]], run["key"]
                if isinstance(one, str):
                    found.append({"key": key, "worker": _here(), "error": one})
                    continue
                case, base = one
                judged = _judge(model, made, case, base, trained[key], encoders, each)
                found.append({"key": key, "worker": _here(), **judged})
            return found
    except Exception as error:
        return [{"key": run["key"], "error": _reason(error), "worker": _here()} for run in runs]


def _read(sent: Parcel, folder: Path, plan: Plan) -> Case:
    """Split, with the subject's name in the place of the folder that it lies in for a while."""
    try:
        return Folder(sent.name, folder, sent.word, sent.prompts).read(plan.held_out, plan.split_seed)
    except AttractorError as error:
        raise AttractorError(str(error).replace(str(folder), sent.name)) from error


def stamps_of(plan: Plan) -> dict[str, str]:
    """What a worker must have in common with whoever sent it work: the pack's version, and the files of base model,
    encoders and masks. Raises AttractorError when the base model or what an encoder needs is not on this machine.
    """
    found = {"the pack": VERSION, "the kind of views": str(VIEWS), "torch": torch.__version__.split("+")[0],
             "the base model": _model_stamp(plan.model)}  # fmt: skip
    folders = model_folders(plan.models or None)
    for name in _names(plan):
        if said := not_installed(name, folders):
            raise AttractorError(said)
        path = encoder_file(name, folders)
        files = KNOWN[name].files if name in KNOWN else ()
        found[f"the encoder {name}"] = file_stamp(path, files) if path else "not there"
    for name, file in (("saliency", KINDS[plan.masking.saliency_model].file), ("text", FOLDER_NAME)):
        if plan.masking.backend in ("auto", name):
            path = in_folders(folders, file)
            found[f"the mask model {file}"] = file_stamp(path) if path.exists() else "not there"
    return found


def file_stamp(path: Path, names: Sequence[str] = ()) -> str:
    """Hash of a file, or of a folder's files: of all of it up to 4 MB, beyond that of its size and 64 blocks of it.

    names: of the folder's files that count, all without them; the hub's cache holds others beside them.
    """
    state = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if path.is_dir() and names:
        files = [path / name for name in sorted(names) if (path / name).is_file()]
    for file in files:
        size = file.stat().st_size
        state.update(f"{file.relative_to(path).as_posix()} {size}\n".encode())
        with file.open("rb") as data:
            if size <= _BLOCK * _BLOCKS:
                state.update(data.read())
                continue
            for i in range(_BLOCKS):
                data.seek((size - _BLOCK) * i // (_BLOCKS - 1))
                state.update(data.read(_BLOCK))
    return state.hexdigest()


def _model_stamp(name: str) -> str:
    path = demo_assets.ASSETS if name == "demo" else Path(name)
    if not path.exists():
        raise AttractorError(f"{name}: no such model. Give 'demo', a diffusers folder or a .safetensors checkpoint.")
    return file_stamp(path)


def _names(plan: Plan) -> list[str]:
    return list(dict.fromkeys(n for n in (plan.image_encoder, plan.text_encoder) if n and n != "none"))


_loaded: dict[str, Any] = {}
_cases: OrderedDict[str, tuple[Case, Generations]] = OrderedDict()


@contextmanager
def _ready(data: dict, stamps: dict) -> Iterator[tuple[Plan, Any]]:
    """The plan, and its base model, which a worker loads once; with as many threads as the plan gives a task."""
    plan = Plan.of(data)
    if stamps["the pack"] != VERSION:
        raise AttractorError(_other("the pack", stamps["the pack"], VERSION))
    if _loaded.get("stamps") != stamps:
        own = stamps_of(plan)
        for what, wanted in stamps.items():
            if own.get(what) != wanted:
                raise AttractorError(_other(what, wanted, own.get(what, "none")))
        _loaded.clear()
        _cases.clear()
        from ..backend.diffusers_model import load

        _loaded.update(model=load(plan.model), stamps=stamps)
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.cpus)  # sums of another number of threads differ in their last bits
    try:
        yield plan, _loaded["model"]
    finally:
        torch.set_num_threads(threads)


def _encoders(plan: Plan) -> list[Any]:
    if "encoders" not in _loaded:
        _loaded["encoders"] = [load_encoder(name, model_folders(plan.models or None)) for name in _names(plan)]
    return _loaded["encoders"]


def _case_or_why(parcel: dict, prepared: bytes) -> Any:
    """A subject as `prepare` left it, or why it cannot be had."""
    try:
        return _case(parcel, prepared)
    except Exception as error:
        return _reason(error)


def _case(parcel: dict, prepared: bytes) -> tuple[Case, Generations]:
    """A subject as `prepare` left it."""
    key = f"{parcel['key']} {hashlib.sha256(prepared).hexdigest()}"
    if key not in _cases:
        _cases[key] = _unpack(Parcel(**parcel), prepared)
        while len(_cases) > _CASES:
            _cases.popitem(last=False)
    _cases.move_to_end(key)
    return _cases[key]


def _unpack(parcel: Parcel, prepared: bytes) -> tuple[Case, Generations]:
    tensors = read_tensors(prepared)
    size = int.from_bytes(prepared[:8], "little")
    info = json.loads(json.loads(prepared[8 : 8 + size])["__metadata__"]["info"])
    certificate = Certificate.of(info["certificate"]) if info["certificate"] else None
    with parcel.folder() as folder:
        split = (folder / "train").is_dir()
        train_set = _chosen(folder / "train" if split else folder, info["train"], info["word"])
        test = _chosen(folder / "test" if split else folder, info["held_out"], info["word"])
    photos = [replace(p, mask=_number(tensors[f"mask/{i}"]), verdict=info["verdicts"][p.name]["verdict"])
              if f"mask/{i}" in tensors else p for i, p in enumerate(train_set.photos)]  # fmt: skip
    train_set = train_set.with_photos(photos, role="train", certificate=certificate)
    case = Case(parcel.name, train_set, replace(test, role="held-out", certificate=certificate), parcel.prompts)
    items = tuple(Generated(**item) for item in info["items"])
    return case, Generations(_number(tensors["base"]), items, info["word"], None, info["base_model"])


def _chosen(folder: Path, names: Sequence[str], word: str) -> SubjectSet:
    photos = {photo.name: photo for photo in read_folder(folder, word).photos}
    return SubjectSet(tuple(photos[name] for name in names), word)


def _train(model: Any, wanted: Sequence[tuple[Case, TrainSettings]]) -> list[Concept | Exception]:
    """All in one batch; when that fails one after the other, so that each has its own reason."""
    jobs = [Job(case.train, settings) for case, settings in wanted]
    if len(jobs) > 1:
        try:
            return [concept for concept, _ in train_together(model, jobs)]
        except Exception as error:
            log.warning("%d trainings in one batch failed (%s): each is tried alone.", len(jobs), _reason(error))
    found: list[Concept | Exception] = []
    for job in jobs:
        try:
            found.append(train(model, job.subject, job.settings)[0])
        except Exception as error:
            found.append(error)
    return found


def _judge(
    model: Any, plan: Plan, case: Case, base: Generations, concept: Concept | Exception, encoders: Sequence[Any],
    seconds: float,
) -> dict:  # fmt: skip
    """Pictures and report of a concept, as files. seconds: that its training took."""
    if isinstance(concept, Exception):
        return {"error": _reason(concept)}
    started = time.perf_counter()
    try:
        made = _paint(model, concept, case, plan)
        painted = time.perf_counter()
        report = score(made, base, case.train, case.test, encoders)
        with tempfile.TemporaryDirectory(prefix="attractor-") as name:
            folder = Path(name)
            write_report(report, folder)
            save_concept(concept, folder, "concept")
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        files |= {f"{i:04d}.png": made.png(i) for i in range(len(made.items))}
        ended = time.perf_counter()
        parts = {"train": seconds, "paint": painted - started, "score": ended - painted}
        return {"files": files, "seconds": seconds + ended - started, "parts": parts}
    except Exception as error:
        return {"error": _reason(error)}


def _paint(model: Any, concept: Concept | None, case: Case, plan: Plan) -> Generations:
    """As they come back from files, so that what is scored now and what is scored again later is the same."""
    how, word = plan.painting, case.train.class_word
    seeds = range(how.first_seed, how.first_seed + how.seeds)
    made = model.sample(concept, word, case.prompts, seeds, how.steps, how.cfg, how.size, how.negative)
    return replace(made, images=eight_bit(made.images))


def _bits(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _number(bits: Tensor) -> Tensor:
    return bits.float() / 255


def _reason(error: Exception) -> str:
    """One line for people; what is no message of ours comes with its kind."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, AttractorError) else f"{type(error).__name__}: {text}"


def _other(what: str, wanted: str, own: str) -> str:
    return (f"the machine {_here()} has another version of {what} ({own[:12]}) than the one that started the sweep "
            f"({wanted[:12]}): bring both to the same.")  # fmt: skip


def _here() -> str:
    return f"{socket.gethostname()} ({os.getpid()})"
