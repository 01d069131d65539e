"""`attractor COMMAND`: the nodes without a host, over the diffusers back end, and benchmarks over sets of subjects."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from PIL import UnidentifiedImageError

from ..attractor.errors import AttractorError
from ..attractor.files import write_json
from ..attractor.masks import UNITS
from ..attractor.photo_masks import BACK_ENDS
from ..attractor.saliency import KINDS
from ..studio.credentials import ALGORITHMS
from ..studio.policy import NAMES
from ..training.settings import CHOICES, TrainSettings
from . import commands, studio
from .bench import bench

_MODELS_HELP = "without it: $ATTRACTOR_MODELS, the current folder, and the pack's own .host/models"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 with one line on stderr."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        result = chosen.run(chosen)
        if chosen.json:
            write_json(Path(chosen.json), result)
    except AttractorError as error:
        print(f"attractor {chosen.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (OSError, KeyError, RuntimeError, UnidentifiedImageError) as error:
        print(f"attractor {chosen.command}: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumes = chosen.command in ("train", "bench")
        goes_on = "; the same command goes on where it was" if resumes else ", nothing was written"
        print(f"attractor {chosen.command}: stopped{goes_on}", file=sys.stderr)
        return 1
    if not chosen.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit code 1 like every other error."""

    def error(self, message: str) -> NoReturn:
        """One line on stderr."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="attractor", description="Learn one subject from a few photos, and score it.")
    commands_of = parser.add_subparsers(dest="command", required=True)
    _split_options(
        _command(commands_of, "split", commands.split, "put photos aside for scoring, no near-duplicate across")
    )
    _mask(_command(commands_of, "mask", commands.mask, "write an attractor mask for each photo"))
    _train(_command(commands_of, "train", commands.train, "learn a concept from the photos", nargs="+"))
    _sample(_command(commands_of, "sample", commands.sample, "paint prompts into the folder"))
    _score(_command(commands_of, "score", commands.score, "score the pictures in a folder that `sample` wrote"))
    _encoders(commands_of.add_parser("encoders", help="list encoders to score with, or fetch some of them"))
    _compare(commands_of.add_parser("compare", help="put scored runs side by side"))
    _sweep(commands_of.add_parser("sweep", help="run a plan of many trainings over Ray: docs/studio.md"))
    _pilot(_command(commands_of, "pilot", studio.pilot, "try a few products, and say whether it pays: docs/studio.md"))
    _gate(commands_of.add_parser("gate", help="pass or block a scored concept by a policy: docs/studio.md"))
    _sign(commands_of.add_parser("sign", help="signed content credentials (C2PA) into pictures"))
    _forget(commands_of.add_parser("forget", help="find, and delete, all that was made of photos"))
    _bench(_command(commands_of, "bench", bench, "run methods over a set of subjects, a folder each: docs/scoring.md"))
    return parser


def _mask(parser: argparse.ArgumentParser) -> None:
    _mask_options(parser)
    parser.add_argument("--model", default="", help="for the back end attention: demo, a diffusers folder, or a file")
    parser.add_argument("--out", required=True, help="folder for the masks, <stem>.png each")


def _train(parser: argparse.ArgumentParser) -> None:
    _split_options(parser)
    _mask_options(parser)
    _model_option(parser)
    parser.add_argument("--name", default="my-subject", help="name of the concept file; of several, the folders' names")
    parser.add_argument("--out", required=True, help="folder for the concept file, and for runs/ with state and curve")
    parser.add_argument("--start-from", metavar="FILE", help="a concept to go on from, in the place of the class word")
    parser.add_argument("--when-exists", choices=("refuse", "number", "overwrite"), default="refuse")
    _training_options(parser)


def _sample(parser: argparse.ArgumentParser) -> None:
    _model_option(parser)
    parser.add_argument("--concept", help="concept file; without one the class word stands in its place")
    parser.add_argument("--word", default="", help="class word, such as dog")
    parser.add_argument("--prompt", action="append", required=True, help="a prompt with <subject> in it; repeatable")
    parser.add_argument("--negative", default="", help="what to avoid")
    parser.add_argument("--truncation", type=int, default=0, help="of a NeTI concept: so many of its 128 hidden units")
    _painting_options(parser, "--steps")


def _score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", required=True, help="folder of the subject's photos")
    parser.add_argument("--split", required=True, help="what `attractor split --json` wrote for these photos")
    parser.add_argument("--base", help="folder of the same prompts and seeds without the concept")
    parser.add_argument("--concept", help="the concept that painted DIR: its run card goes into the report")
    parser.add_argument("--word", default="", help="class word")
    parser.add_argument("--models", help=f"folder with encoders; {_MODELS_HELP}")
    _encoder_options(parser)
    parser.add_argument("--regions", action="store_true", help="the subject and the background alone too, by saliency")
    parser.add_argument("--look-alikes", metavar="FOLDER", help="photos of other things that look like the subject")
    parser.add_argument("--out", help="folder for report.json, report.csv and report.html")


def _encoders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="to fetch; without one: the list, with licences")
    parser.add_argument("--models", help=f"folder with encoders; {_MODELS_HELP}")
    _result(parser, commands.encoders)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="report.json, or the folder that holds it")
    parser.add_argument("--names", help="a,b,… in their order; without it the folders' names")
    parser.add_argument("--out", help="folder for comparison.json and comparison.html")
    _result(parser, commands.compare)


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN.yaml", help="subjects, methods, settings, seeds: docs/studio.md")
    parser.add_argument("--store", default="", help="folder or fsspec address of the results; without it PLAN.store")
    parser.add_argument("--address", default="", help="host:port of a Ray cluster, or auto; without it this machine")
    parser.add_argument("--hosts", default="", help="in the place of Ray: addresses of ComfyUI hosts with this pack, "
                        "such as http://10.0.0.5:8188,http://10.0.0.6:8188")  # fmt: skip
    parser.add_argument("--concepts", metavar="DIR", default="", help="write each concept there too, under its name")
    _result(parser, studio.sweep)


def _pilot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="folder for pilot.html, pilot.json and the store")
    parser.add_argument("--plan", default="", help="a plan for model, settings, painting, masks; DIR are its subjects")
    parser.add_argument("--products", type=int, default=8, help="so many, spread over the names; 0 for all")
    parser.add_argument("--machine-hour", type=float, required=True, help="price of one machine, with all of its GPUs")
    parser.add_argument("--shoot", type=float, required=True, help="price of one product's photo shoot, all in")
    parser.add_argument("--photos-per-shoot", type=int, default=8, help="pictures that a shoot gives")
    parser.add_argument("--review", type=float, default=0.0, help="price of a person looking at one picture")
    parser.add_argument("--photos", type=float, default=0.0, help="price of the few photos of a product to learn from")
    parser.add_argument("--setup", type=float, default=0.0, help="price of beginning with it, once")
    parser.add_argument("--currency", default="EUR")
    parser.add_argument("--address", default="", help="host:port of a Ray cluster, or auto; without it this machine")


def _gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", metavar="REPORT", help="report.json, or the folder that holds it")
    parser.add_argument("--policy", default="catalogue", help=f"{', '.join(NAMES)}, or a JSON file")
    parser.add_argument("--photos", nargs="+", help="folders of the train photos, for what their manifests say today")
    parser.add_argument("--today", default="", help="the day on which consents must be valid, YYYY-MM-DD")
    parser.add_argument("--study", default="", help="a blind study's folder, for policies that ask people")
    parser.add_argument("--run-name", default="", help="what this run is called in that study")
    parser.add_argument("--out", help="file for the decision record; without it decision.json beside the report")
    _result(parser, studio.gate)


def _sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="PNG, JPEG or WebP files, signed in their place")
    parser.add_argument("--key", required=True, help="private key, a PEM file")
    parser.add_argument("--certificate", required=True, help="its certificate and those above it, a PEM file")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=ALGORITHMS[0], help="the key's")
    parser.add_argument("--timestamp", default="", help="address of a time-stamping authority")
    parser.add_argument("--concept", help="that painted them, where they do not say so themselves")
    _result(parser, studio.sign)


def _forget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photos, folders of photos, or their SHA-256")
    parser.add_argument("--within", nargs="+", required=True, metavar="DIR",
                        help="where to look: ComfyUI's input, output, user and embeddings, and your own")  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="delete what is found; without it, it is only listed")
    parser.add_argument("--receipt", default="receipt.json", help="new file for the receipt of what was deleted")
    _result(parser, studio.forget)


def _bench(parser: argparse.ArgumentParser) -> None:
    _split_options(parser)
    _mask_options(parser, word=False)
    _model_option(parser)
    parser.add_argument("--methods", default="attractor,plain",
                        help="of attractor, plain and masked; the others are compared with the first")  # fmt: skip
    parser.add_argument("--out", required=True, help="folder for all reports and the table")
    _encoder_options(parser)
    _painting_options(parser, "--sampler-steps")
    _training_options(parser)


def _command(parsers, name: str, run, help_text: str, nargs: str | None = None) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=help_text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    about = "folder of photos, or of pictures for sample and score"
    if nargs:
        about = "folder of photos; several are trained side by side"
    parser.add_argument("dir", metavar="DIR", nargs=nargs, help=about)
    _result(parser, run)
    return parser


def _result(parser: argparse.ArgumentParser, run) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the result there in the place of stdout")
    parser.set_defaults(run=run)


def _split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--held-out", type=float, default=0.3, help="count (1 or more) or fraction of the photos")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")


def _mask_options(parser: argparse.ArgumentParser, word: bool = True) -> None:
    known = BACK_ENDS if word else [name for name in BACK_ENDS if name != "external"]
    parser.add_argument("--backend", choices=known, default="auto",
                        help="auto compares all whose models are there; with --masks it is external")  # fmt: skip
    if word:
        parser.add_argument("--word", default="subject",
                            help="what the subject is, such as dog; for several folders dog,cat")  # fmt: skip
        parser.add_argument("--masks", help="folder of masks <stem>.png, for the back end external; of several "
                            "folders with a folder of masks for each")  # fmt: skip
        parser.add_argument("--click", action="append", metavar="[NAME:]X,Y",
                            help="a point on the subject, or a box X0,Y0,X1,Y1, in pixels or fractions; repeatable, "
                            "for the photos in order or by name")  # fmt: skip
    else:
        parser.set_defaults(masks=None, click=None)
    parser.add_argument("--models", help=f"folder that holds u2netp.onnx and clipseg/; {_MODELS_HELP}")
    parser.add_argument("--saliency-model", choices=KINDS, default="u2netp")
    parser.add_argument("--unit", choices=UNITS, default=UNITS[0], help="of --grow and --feather, of the longer side")
    parser.add_argument("--grow", type=float, default=0.0, help="grow the mask, or shrink it below 0")
    parser.add_argument("--feather", type=float, default=4.0, help="soften its edge")
    parser.add_argument("--edges", type=float, default=0.0,
                        help="draw it to edges within so many thousandths of the longer side")  # fmt: skip


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", help="demo, a diffusers folder, or a .safetensors checkpoint")


def _encoder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-encoder", default="efficientnet-lite0")
    parser.add_argument("--text-encoder", help="a CLIP in --models")


def _painting_options(parser: argparse.ArgumentParser, steps: str) -> None:
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(steps, type=int, default=20, help="of the sampler")
    parser.add_argument("--cfg", type=float, default=7.0)
    parser.add_argument("--size", type=int, default=512, help="side in pixels")


def _training_options(parser: argparse.ArgumentParser) -> None:
    for field in fields(TrainSettings):
        if field.name != "seed":
            _setting(parser, field.name, field.default)


def _setting(parser: argparse.ArgumentParser, name: str, default) -> None:
    flag = "--" + name.replace("_", "-")
    if isinstance(default, bool):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
    elif name in CHOICES:
        parser.add_argument(flag, choices=CHOICES[name], default=default)
    else:
        parser.add_argument(flag, type=type(default), default=default)


if __name__ == "__main__":
    sys.exit(main())
