"""What each command does: a few lines over the library; each gives what `--json` writes."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..attractor.clicks import parse_clicks
from ..attractor.errors import AttractorError
from ..attractor.files import read_json, write_beside
from ..attractor.masks import Refinement
from ..attractor.photo_masks import mask_set
from ..attractor.raw_masks import Sources
from ..attractor.saliency import FILE_NAME, SaliencyModel
from ..backend.sources import in_folders, mask_sources, model_folders
from ..metrics.compare import compare_reports
from ..metrics.encoders import available, encoder_file, load_encoder, no_text, not_here, not_installed
from ..metrics.generations import from_picture
from ..metrics.page import write_comparison, write_report
from ..metrics.pictures import painted_by, read_pictures, write_pictures
from ..metrics.report import read_report
from ..metrics.scores import score as score_pictures
from ..metrics.splits import Certificate, split_set
from ..metrics.weights import KNOWN, fetch
from ..studio.manifest import manifest
from ..training.concept import check_name, load_concept, save_concept
from ..training.loop import train as train_concept
from ..training.photos import SubjectSet, read_folder
from ..training.resume import RunFolder
from ..training.rights import check_rights
from ..training.settings import TrainSettings
from ..training.together import Job, train_together
from ..training.watcher import Among, Silent


def split(chosen: Namespace) -> dict:
    """Names of both parts, the groups that had to stay together, and warnings."""
    found = split_set(read_folder(Path(chosen.dir), "subject"), chosen.held_out, chosen.seed)
    return {
        "train": found.train.names,
        "held_out": found.held_out.names,
        "groups": found.groups,
        "warnings": found.warnings,
        "certificate": json.loads(found.certificate.to_json()),
        "photos": manifest(found.train, found.held_out),
    }


def mask(chosen: Namespace) -> dict:
    """Write the masks as 8-bit PNG of the photos' sizes; verdicts by photo."""
    folder = Path(chosen.dir)
    photos = read_folder(folder, chosen.word)
    stems = [Path(name).stem for name in photos.names]
    twice = sorted({name for name in photos.names if stems.count(Path(name).stem) > 1})
    if twice:
        raise AttractorError(f"{', '.join(twice)} would get the same mask file: rename one of them.")
    found, sources = masked(photos, chosen)
    sizes = {photo.name: _file_size(folder / photo.name) for photo in found.photos}
    verdicts = {}
    for photo in found.photos:
        inside = photo.mask if photo.mask is not None else torch.ones(photo.pixels.shape[-2:])
        picture = Image.fromarray((inside.numpy() * 255).round().astype(np.uint8))
        if picture.size != sizes[photo.name]:
            picture = picture.resize(sizes[photo.name], Image.Resampling.BILINEAR)
        out = Path(chosen.out) / f"{Path(photo.name).stem}.png"
        write_beside(out, lambda path, picture=picture: picture.save(path, "PNG"))
        verdicts[photo.name] = photo.judgement()
    return {"backend": chosen.backend, "photos": verdicts, "without": dict(sources.missing)}


def train(chosen: Namespace) -> dict:
    """Split, mask, train, and write the concept file; of several folders, all side by side and a file each."""
    from ..backend.diffusers_model import load

    folders, words = [Path(one) for one in chosen.dir], [word.strip() for word in chosen.word.split(",")]
    names = [chosen.name] if len(folders) == 1 else [folder.resolve().name for folder in folders]
    for name in names:
        path = Path(chosen.out) / f"{check_name(name)}.safetensors"
        if chosen.when_exists == "refuse" and path.exists():
            other = "--name or --out" if len(names) == 1 else "--out"
            raise AttractorError(f"{path} is there already: choose another {other}, or --when-exists number.")
    if len(folders) > 1 and chosen.click:
        raise AttractorError("--click is for one folder: mask the folders one by one, and give --masks.")
    if len(set(names)) < len(names):
        raise AttractorError("two of the folders have the same name, and so would their concepts: rename one.")
    if len(words) not in (1, len(folders)):
        raise AttractorError(f"--word has {len(words)} words for {len(folders)} folders: give one, or one for each.")
    fields_of = {f.name for f in fields(TrainSettings)} - {"seed"}
    settings = TrainSettings(**{name: getattr(chosen, name) for name in fields_of}, seed=chosen.seed)
    start = load_concept(Path(chosen.start_from)) if chosen.start_from else None
    sets = [read_folder(folder, words[i % len(words)]) for i, folder in enumerate(folders)]
    for photos in sets:
        check_rights(photos)
    model, jobs = load(chosen.model), []
    if start is not None:
        start.check_fits(model.widths, None, f"the model {chosen.model}")
    for i, photos in enumerate(sets):
        word = words[i % len(words)]
        masks = Path(chosen.masks) / names[i] if chosen.masks and len(folders) > 1 else chosen.masks
        own = Namespace(**{**vars(chosen), "word": word, "masks": masks})
        found, _ = masked(photos, own, model)
        parts = split_set(found, chosen.held_out, chosen.seed)
        runs = RunFolder.of(Path(chosen.out) / "runs", model, parts.train, settings, parts.held_out, start_from=start)
        jobs.append(Job(parts.train, settings, parts.held_out, _Lines(), 0, runs, start))
    if len(jobs) == 1:
        job = jobs[0]
        found = [train_concept(model, job.subject, settings, job.held_out, job.watcher, 0, job.runs, job.start_from)]
    else:
        for job, watcher in zip(jobs, Among.all(_Lines(), [settings] * len(jobs)), strict=True):
            job.watcher = watcher
        found = train_together(model, jobs)
    made = []
    for name, job, (concept, history) in zip(names, jobs, found, strict=True):
        path = save_concept(concept, Path(chosen.out), name, chosen.when_exists)
        held_out = job.held_out.names if job.held_out else []
        certificate = job.subject.certificate
        made.append({"concept": str(path), "train": job.subject.names, "held_out": held_out,
                     "certificate": json.loads(certificate.to_json()) if certificate else None,
                     "best_step": history.best_step, "run_card": concept.run_card})  # fmt: skip
    return made[0] if len(made) == 1 else {"concepts": made}


def sample(chosen: Namespace) -> dict:
    """Paint every prompt with every seed into DIR, with an index that `score` reads."""
    from ..backend.diffusers_model import load

    concept = load_concept(Path(chosen.concept)) if chosen.concept else None
    if concept is None and not chosen.word:
        raise AttractorError("without --concept, say with --word what stands in the place of <subject>.")
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    made = load(chosen.model).sample(
        concept, chosen.word, chosen.prompt, seeds, chosen.steps, chosen.cfg, chosen.size, chosen.negative,
        chosen.truncation,
    )  # fmt: skip
    return write_pictures(made, Path(chosen.dir))


def score(chosen: Namespace) -> dict:
    """Score the pictures in DIR against the photos, by the split."""
    concept = load_concept(Path(chosen.concept)) if chosen.concept else None
    made = read_pictures(Path(chosen.dir), concept, chosen.word)
    base = read_pictures(Path(chosen.base), None, chosen.word) if chosen.base else None
    _check_painted_by(Path(chosen.dir), concept.sha256 if concept else None, chosen.concept)
    if chosen.base and painted_by(Path(chosen.base)):
        raise AttractorError(f"--base {chosen.base}: a concept painted it. Give pictures of the class word alone.")
    photos = read_folder(Path(chosen.photos), made.class_word or "subject")
    parts = read_json(Path(chosen.split))
    train_set, held_out = (_chosen(photos, parts.get(key, []), chosen.split) for key in ("train", "held_out"))
    _check_certificate(parts.get("certificate"), train_set, held_out, chosen.split)
    if parts.get("certificate"):
        train_set = replace(train_set, certificate=Certificate.of(parts["certificate"]))
    names = dict.fromkeys(n for n in (chosen.image_encoder, chosen.text_encoder) if n and n != "none")
    if chosen.text_encoder in names and (said := no_text(chosen.text_encoder, model_folders(chosen.models))):
        raise AttractorError(said.replace("text_encoder", "--text-encoder"))
    encoders = [load_encoder(name, model_folders(chosen.models)) for name in names]
    find = None
    if chosen.regions:
        find = SaliencyModel(in_folders(model_folders(chosen.models), FILE_NAME)).mask
    others = read_folder(Path(chosen.look_alikes), "other").photos if chosen.look_alikes else ()
    report = score_pictures(made, base, train_set, held_out, encoders, find, others)
    result = report.as_dict()
    if chosen.out:
        data, page = write_report(report, Path(chosen.out))
        result |= {"report": str(data), "page": str(page)}
    return result


def encoders(chosen: Namespace) -> dict:
    """What there is to score with, and what can be fetched; fetch those that are named."""
    folders = model_folders(chosen.models)
    unknown = sorted(set(chosen.names) - set(KNOWN))
    if unknown:
        raise AttractorError(f"{unknown[0]!r} is not known. There are: {', '.join(KNOWN)}.")
    for name in chosen.names:
        if said := not_installed(name, folders):
            raise AttractorError(said)
        print(f"{name}: {KNOWN[name].text}", file=sys.stderr)
        if not_here(name, folders):
            fetch(KNOWN[name], folders[0], _Percent())
    here = {name: str(encoder_file(name, folders) or "") for name in available(folders)}
    more = {name: str(encoder_file(name, folders) or KNOWN[name].text) for name in KNOWN}
    return {"encoders": {**here, **more}}


def compare(chosen: Namespace) -> dict:
    """Put reports side by side."""
    paths = [Path(path) for path in chosen.reports]
    paths = [path / "report.json" if path.is_dir() else path for path in paths]
    names = [n.strip() for n in chosen.names.split(",")] if chosen.names else _names(paths)
    found = compare_reports([read_report(path) for path in paths], names)
    if chosen.out:
        write_comparison(found, Path(chosen.out))
    print(found.text, file=sys.stderr)
    return found.as_dict()


class _Percent:
    """One line on stderr every tenth of the way."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth > self._told:
            self._told = tenth
            print(f"{done} of {total} MB", file=sys.stderr)


class _Lines(Silent):
    """One line on stderr now and then."""

    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """Every twentieth of the way."""
        if done % max(1, total // 20) == 0:
            print(f"{phase}: step {done} of {total}, loss {value:.4f}", file=sys.stderr)


def masked(subject: SubjectSet, chosen: Namespace, model: Any = None) -> tuple[SubjectSet, Sources]:
    """The photos with masks by the command's back end, and what that was made from."""
    given = [_read_mask(Path(chosen.masks), name) for name in subject.names] if chosen.masks else None
    back_end = "external" if given and chosen.backend == "auto" else chosen.backend
    sources = _sources(back_end, chosen, model)
    how = Refinement(chosen.grow, chosen.feather, unit=chosen.unit, edges=chosen.edges)
    clicks = parse_clicks("\n".join(chosen.click or []), subject.names, [photo.shown_size for photo in subject.photos])
    return mask_set(subject, back_end, how, given, sources, clicks), sources


def _sources(back_end: str, chosen: Namespace, model: Any) -> Sources:
    made = lambda: model or _diffusion_model(chosen)  # noqa: E731
    return mask_sources(back_end, chosen.saliency_model, model_folders(chosen.models), made)


def _diffusion_model(chosen: Namespace) -> Any:
    if not chosen.model:
        raise AttractorError("The back end 'attention' needs the model that is trained on: give --model.")
    from ..backend.diffusers_model import load

    return load(chosen.model)


def _read_mask(folder: Path, name: str) -> torch.Tensor:
    path = folder / f"{Path(name).stem}.png"
    try:
        with Image.open(path) as picture:
            return from_picture(picture.convert("L"))[0]
    except (OSError, UnidentifiedImageError) as error:
        raise AttractorError(f"{path}: the mask of {name} is missing or cannot be read.") from error


def _file_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright photo."""
    with Image.open(path) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (picture.height, picture.width) if turned else (picture.width, picture.height)


def _check_painted_by(folder: Path, concept: str | None, given: str) -> None:
    """Raise AttractorError where pictures are said to be another concept's than their index says."""
    painted = painted_by(folder)
    if given and painted != concept:
        by = f"the concept {str(painted)[:12]}" if painted else "the class word alone"
        raise AttractorError(f"{folder}: was painted by {by}, not by {given}. Give the concept that painted it.")


def _check_certificate(certificate: Any, train_set: SubjectSet, held_out: SubjectSet, source: str) -> None:
    """Raise AttractorError unless the certificate, if there is one, was made for these very files."""
    if certificate is None:
        return
    for name, photos in (("train", train_set), ("held_out", held_out)):
        named = certificate.get(name) if isinstance(certificate, dict) else None
        if not isinstance(named, list) or sorted(map(str, named)) != sorted(p.sha256 for p in photos.photos):
            raise AttractorError(
                f"{source}: its certificate was made for other {name.replace('_', '-')} photos than those in the "
                "folder, or has been edited. Run `attractor split` again, and train on the new split."
            )


def _chosen(photos: SubjectSet, names: list[str], source: str) -> SubjectSet:
    missing = sorted(set(names) - set(photos.names))
    if missing or not names:
        raise AttractorError(f"{source}: names photos that are not in the folder: {', '.join(missing) or '(none)'}.")
    return photos.with_photos([p for p in photos.photos if p.name in set(names)])


def _names(paths: Sequence[Path]) -> list[str]:
    """The folder of each report, with as many of those above it as tell them apart."""
    folders = [path.resolve().parent.parts for path in paths]
    for depth in range(1, max(map(len, folders))):
        names = ["/".join(parts[-depth:]) for parts in folders]
        if len(set(names)) == len(names):
            return names
    return [str(i + 1) for i in range(len(paths))]
