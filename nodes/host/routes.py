"""What the host serves for this pack: blind studies, report pages, and the curves of trainings that go on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from ...attractor.errors import AttractorError
from ...metrics.page import PAGES
from ...metrics.study import NotThere, Study, VotesError, open_study
from ...training.concept import check_name
from ...training.run_card import VERSION
from . import folders, panels

STUDY = "/attractor/study/"
_PAGE = Path(__file__).parents[2] / "metrics" / "study.html"
_LARGEST_VOTE = 4096  # bytes
_LONGEST_ID = 200
_OF_A_SWEEP = re.compile(r"sweep-[0-9a-f]{16}")
SERVER = uuid.uuid4().hex
"""This run of the host, so that a sweep in its own queue does not wait for itself."""


def register() -> None:
    """Add the routes to the running server; more than once does nothing."""
    server = getattr(PromptServer, "instance", None)
    if server is None or getattr(server, "attractor_routes", False):
        return
    server.attractor_routes = True
    routes = server.routes
    routes.get(STUDY + "{id}")(_page)
    routes.get(STUDY + "{id}/state")(_state)
    routes.post(STUDY + "{id}/vote")(_vote)
    routes.get(STUDY + "{id}/picture/{token}")(_picture)
    routes.get("/attractor/report/{name}/{file}")(_report)
    routes.get("/attractor/running")(_running)
    routes.get("/attractor/version")(_version)
    routes.get("/attractor/concept/{name}")(_concept)
    routes.post("/attractor/page")(_page_said)


def study_link(study: Study) -> str:
    """Where the host serves a study: a path below its own address."""
    return STUDY + study.id


def study_address() -> str:
    """The running server's address as seen from this machine, without a path; empty without one."""
    server = getattr(PromptServer, "instance", None)
    port, address = getattr(server, "port", None), str(getattr(server, "address", ""))
    if not port:
        return ""
    if address in ("", "0.0.0.0", "::"):  # noqa: S104 - listens on all; this machine is one of them
        address = "127.0.0.1"
    return f"{'https' if args.tls_keyfile else 'http'}://{f'[{address}]' if ':' in address else address}:{port}"


async def _page(request: web.Request) -> web.Response:
    page = await _answer(lambda: _study(request) and _PAGE.read_text(encoding="utf-8"), _plain)
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256((script.group(1) if script else "").encode()).digest()).decode()
    policy = (f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
              f"script-src 'sha256-{digest}'")  # fmt: skip
    return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": policy})


async def _report(request: web.Request) -> web.Response:
    """A report's page: the host's own /view would only offer it for download."""
    name, file = request.match_info["name"], request.match_info["file"]

    def read() -> str:
        path = folders.report_folder(check_name(name)) / file
        if file not in PAGES or not path.is_file():
            raise NotThere(f"{name}/{file}: no such report in output/attractor. Queue the graph again to write it.")
        return path.read_text(encoding="utf-8")

    page = await _answer(read, _plain)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return web.Response(text=page, content_type="text/html", headers=headers)


async def _version(request: web.Request) -> web.Response:
    """By which a sweep from another machine sees whom it speaks to, and what its results would follow from here."""
    names = ("model", "image_encoder", "text_encoder", "backend", "kind")
    given = {name: request.query.get(name, "") for name in names}
    stamps = await _answer(lambda: _stamps(**given)) if given["model"] else {}
    return web.json_response({"version": VERSION, "server": SERVER, "stamps": stamps})


def _stamps(model: str, image_encoder: str, text_encoder: str, backend: str, kind: str) -> dict[str, str]:
    from ...studio.plan import Masking, Plan  # late, for the host's start
    from ...studio.work import stamps_of

    for name in (image_encoder, text_encoder):
        if Path(name).name != name:
            raise AttractorError(f"{name!r} is no encoder's name.")
    path = model if model == "demo" else str(folders.checkpoint(model))
    masking = Masking(backend or "auto", kind or "u2netp")
    return stamps_of(Plan("", path, masking=masking, image_encoder=image_encoder, text_encoder=text_encoder,
                          models=str(folders.model_folders()[0])))  # fmt: skip


async def _concept(request: web.Request) -> web.Response:
    """A concept file of the embeddings folder, for the sweep that had it made."""
    name = request.match_info["name"]

    def read() -> bytes:
        path = folders.embeddings_folder() / f"{check_name(name)}.safetensors"
        if not _OF_A_SWEEP.fullmatch(name) or not path.is_file():
            raise NotThere(f"{name}: no such concept in the embeddings folder.")
        return path.read_bytes()

    return web.Response(body=await _answer(read, _plain), content_type="application/octet-stream")


async def _running(request: web.Request) -> web.Response:
    """What nodes have shown and trainings draw in a graph that this page's client queued: nobody else is told."""
    client = request.query.get("client_id", "")
    known = [*panels.finished.values(), *panels.running.values()]
    told = [panels.shown(one) for one in known if client and one["client"] == client]
    return web.json_response(told, headers={"Cache-Control": "no-store"})


async def _page_said(request: web.Request) -> web.Response:
    """A page says whether it draws curves itself, so that none is drawn twice."""
    try:
        said = await request.json()
        client, draws = said["client_id"], bool(said["draws"])
    except (ValueError, KeyError, TypeError):
        client, draws = None, False
    if not isinstance(client, str) or not 0 < len(client) <= _LONGEST_ID:
        raise _json(web.HTTPBadRequest, "Say client_id, a text, and draws, true or false.")
    panels.page_says(client, draws)
    return web.json_response({})


async def _state(request: web.Request) -> web.Response:
    state = await _answer(lambda: _study(request).state(request.query.get("rater", "")))
    return web.json_response(state, headers={"Cache-Control": "no-store"})


async def _vote(request: web.Request) -> web.Response:
    if (request.content_length or 0) > _LARGEST_VOTE:
        raise _json(web.HTTPBadRequest, "This is more than a vote.")
    try:
        vote = await request.json()
    except ValueError:
        vote = None
    if not isinstance(vote, dict):
        raise _json(web.HTTPBadRequest, "A vote is a JSON object with rater, position, choice and seconds.")
    rater, position, choice = vote.get("rater", ""), vote.get("position", -1), vote.get("choice", "")
    seconds, left = vote.get("seconds", 0), vote.get("left")
    await _answer(lambda: _study(request).vote(rater, position, choice, seconds, left))
    return web.json_response({"kept": True})


async def _picture(request: web.Request) -> web.Response:
    picture = await _answer(lambda: _study(request).picture(request.match_info["token"]))
    return web.Response(body=picture, content_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _study(request: web.Request) -> Study:
    return open_study(folders.studies_folder(), request.match_info["id"])


def _json(kind: type[web.HTTPException], message: str) -> web.HTTPException:
    return kind(text=json.dumps({"error": message}), content_type="application/json")


def _plain(kind: type[web.HTTPException], message: str) -> web.HTTPException:
    return kind(text=message)


async def _answer(ask: Callable[[], Any], refusal: Callable[..., web.HTTPException] = _json) -> Any:
    """What `ask` gives, away from the server's own thread. Raises what the host answers where something goes wrong."""
    try:
        return await asyncio.to_thread(ask)
    except NotThere as error:
        raise refusal(web.HTTPNotFound, str(error)) from None
    except VotesError as error:
        logging.error("attractor: %s", error)
        why = "The votes cannot be kept just now; the server's log says why."
        raise refusal(web.HTTPInternalServerError, why) from None
    except AttractorError as error:
        raise refusal(web.HTTPBadRequest, str(error)) from None
    except (OSError, ValueError, KeyError) as error:
        logging.exception("attractor: a study cannot be read")
        why = "The study cannot be read; the server's log says why."
        raise refusal(web.HTTPInternalServerError, why) from error
