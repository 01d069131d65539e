"""The pages that the host serves for this pack: blind studies, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from ...attractor.errors import AttractorError
from ...metrics.study import Study, VotesError, open_study
from . import folders

STUDY = "/attractor/study/"
_PAGE = Path(__file__).parents[2] / "metrics" / "study.html"
_LARGEST_VOTE = 4096  # bytes


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
    found = await _answer(lambda: _study(request) and _PAGE.read_text(encoding="utf-8"))
    if isinstance(found, web.Response):
        return web.Response(status=found.status, text=json.loads(found.text or "{}").get("error", ""))
    script = re.search(r"<script>(.*?)</script>", found, re.S)
    digest = base64.b64encode(hashlib.sha256((script.group(1) if script else "").encode()).digest()).decode()
    policy = (f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'unsafe-inline'; "
              f"script-src 'sha256-{digest}'")  # fmt: skip
    return web.Response(text=found, content_type="text/html", headers={"Content-Security-Policy": policy})


async def _state(request: web.Request) -> web.Response:
    found = await _answer(lambda: _study(request).state(request.query.get("rater", "")))
    return found if isinstance(found, web.Response) else web.json_response(found, headers={"Cache-Control": "no-store"})


async def _vote(request: web.Request) -> web.Response:
    if (request.content_length or 0) > _LARGEST_VOTE:
        return _error("This is more than a vote.", 413)
    try:
        vote = await request.json()
    except ValueError:
        vote = None
    if not isinstance(vote, dict):
        return _error("A vote is a JSON object with rater, position, choice and seconds.", 400)
    rater, position, choice = vote.get("rater", ""), vote.get("position", -1), vote.get("choice", "")
    seconds = vote.get("seconds", 0)
    left = vote.get("left")
    found = await _answer(lambda: _study(request).vote(rater, position, choice, seconds, left) or {})
    return found if isinstance(found, web.Response) else web.json_response({"kept": True})


async def _picture(request: web.Request) -> web.Response:
    found = await _answer(lambda: _study(request).picture(request.match_info["token"]))
    if isinstance(found, web.Response):
        return found
    return web.Response(body=found, content_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _study(request: web.Request) -> Study:
    return open_study(folders.studies_folder(), request.match_info["id"])


async def _answer(ask: Callable[[], Any]) -> Any:
    """What `ask` gives, away from the server's own thread; a response for what goes wrong."""
    try:
        return await asyncio.to_thread(ask)
    except VotesError as error:
        logging.error("attractor: %s", error)
        return _error("The votes cannot be kept just now; the server's log says why.", 500)
    except AttractorError as error:
        unknown = "no study" in str(error) or "no such picture" in str(error)
        return _error(str(error), 404 if unknown else 400)
    except Exception:
        logging.exception("attractor: a study's page failed")
        return _error("The study cannot be read; the server's log says why.", 500)


def _error(message: str, status: int) -> web.Response:
    return web.json_response({"error": message}, status=status)
