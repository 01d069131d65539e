"""ComfyUI on several machines as a sweep's executor: each run is a graph that is queued by a host's own API.

Photos are uploaded into the host's input folder, below attractor-sweep/, and stay there until someone deletes them;
reports and concepts stay in its output and embeddings folders.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import os
import queue
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..metrics.generations import Generated, Generations, from_picture
from ..training.concept import load_concept
from ..training.run_card import VERSION
from .plan import Plan
from .sweep import Lost
from .work import PREPARED

_TRIES = 3
_POLL = 0.5  # seconds
_PATIENCE = 120.0  # seconds that a host may be silent
_PAUSE = 20.0  # seconds between looks at a host that answers and cannot be used
_FORGOTTEN = 5  # looks at a host that knows nothing of a graph
_FOLDER = "attractor-sweep"
log = logging.getLogger(__name__)
OWN_SERVER = "ATTRACTOR_OWN_SERVER"
"""Environment variable by which a host tells the sweep that it started who it is."""


class OverHosts:
    """Tasks as graphs on ComfyUI hosts, one at a time each; what a host does not finish goes to another.

    addresses: http://machine:8188 each. Raises AttractorError when one does not answer or lacks the pack or the model.
    A context manager.
    """

    def __init__(self, addresses: Sequence[str], plan: Plan):
        if not addresses:
            raise AttractorError("--hosts: give addresses such as http://10.0.0.5:8188, with commas between.")
        self._stop = threading.Event()
        self._hosts = [_Host(address, self._stop) for address in dict.fromkeys(addresses)]
        found = [host.check(plan) for host in self._hosts]
        self._plan, self._stamps, self._dead = plan, found[0], ""
        for host, stamps in zip(self._hosts[1:], found[1:], strict=True):
            self._compare(host, stamps)
        self.slots = self.machines = len(self._hosts)
        self._tasks: queue.Queue[tuple[int, str, tuple, int]] = queue.Queue()
        self._results: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._count = 0
        self._threads = [threading.Thread(target=self._serve, args=(h,), daemon=True) for h in self._hosts]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> OverHosts:
        return self

    def __exit__(self, *_: Any) -> None:
        self.cancel()

    def stamps(self, plan: Plan) -> dict[str, str]:
        """Of the hosts' files. Their samplers paint other pixels than diffusers': results are kept apart."""
        return {**self._stamps, "the back end": "ComfyUI"}

    def share(self, data: Any) -> Any:
        """As it is."""
        return data

    def submit(self, name: str, *arguments: Any) -> int:
        """For whichever host is free first."""
        self._count += 1
        self._tasks.put((self._count, name, arguments, 1))
        return self._count

    def next(self) -> tuple[int, Any] | None:
        """The next that is done; None when there is none within a second. Raises AttractorError without any host."""
        if self._dead:
            raise AttractorError(f"no host answers any more, the last says: {self._dead}")
        try:
            return self._results.get(timeout=1.0)
        except queue.Empty:
            return None

    def cancel(self) -> None:
        """Take back what waits, and interrupt what is ours."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _serve(self, host: _Host) -> None:
        while not self._stop.is_set():
            try:
                task = self._tasks.get(timeout=0.2)
            except queue.Empty:
                continue
            handle, name, arguments, tries = task
            try:
                self._results.put((handle, self._do(host, name, arguments)))
            except _Gone as error:
                if tries < _TRIES:
                    self._tasks.put((handle, name, arguments, tries + 1))
                else:
                    self._results.put((handle, Lost(f"{error} (tried {_TRIES} times)")))
                self._wait_for(host, str(error))
            except Exception as error:  # whatever it was, the sweep must hear of it
                self._results.put((handle, Lost(f"{host.address}: {type(error).__name__}: {error}")))

    def _compare(self, host: _Host, stamps: Mapping[str, str]) -> None:
        """Raises AttractorError where a host's results would follow from other files than the first one's."""
        other = next((what for what, own in stamps.items() if self._stamps.get(what) != own), "")
        if other:
            raise AttractorError(f"{host.address}: has another version of {other} than {self._hosts[0].address}: "
                                 "bring both to the same.")  # fmt: skip

    def _wait_for(self, host: _Host, why: str) -> None:
        """Until it answers again, with the same files; where no host has for a while, nobody will do what waits."""
        host.gone, pause = time.monotonic(), _POLL
        while not self._stop.wait(pause):
            if host.answers():
                try:
                    self._compare(host, host.check(self._plan))
                except Exception as error:  # whatever it is, this thread is the only one that asks the host again
                    if why != str(error):
                        log.warning("%s", error)
                    why, pause = str(error), _PAUSE
                else:
                    host.came_back()
                    return
            if all(h.gone is not None and time.monotonic() - h.gone > _PATIENCE for h in self._hosts):
                self._dead = why

    def _do(self, host: _Host, name: str, arguments: tuple) -> Any:
        plan, parcel = Plan.of(arguments[0]), arguments[2]
        if name == "prepare":  # split, masks and base pictures are part of each graph, and the host's cache keeps them
            return {"files": {PREPARED: b""}, "info": {}, "seconds": 0.0, "worker": host.address}
        found = []
        for run in arguments[4]:
            try:
                found.append({"key": run["key"], **host.run(plan, parcel[run["subject"]], run, self._stop)})
            except (AttractorError, urllib.error.HTTPError, KeyError, ValueError, OSError) as error:
                why = str(error) if isinstance(error, AttractorError) else f"{type(error).__name__}: {error}"
                found.append({"key": run["key"], "error": why, "worker": host.address})
        return found


class _Gone(Exception):
    """A host that does not answer any more."""


class _Host:
    """One ComfyUI, by its API."""

    def __init__(self, address: str, stop: threading.Event):
        self.address, self._stop = address.strip().rstrip("/"), stop
        if urllib.parse.urlsplit(self.address).scheme not in ("http", "https"):
            raise AttractorError(f"--hosts: {address!r} is no address such as http://10.0.0.5:8188.")
        self.gone: float | None = None  # since when it does not answer
        self._uploaded: set[str] = set()

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            self._bytes("/queue")
        except (_Gone, urllib.error.HTTPError):
            return False
        return True

    def came_back(self) -> None:
        """It may be another machine at the same address, without what was sent before."""
        self.gone = None
        self._uploaded.clear()

    def check(self, plan: Plan) -> dict[str, str]:
        """The stamps of what a plan's results follow from there. Raises AttractorError unless it can run the plan."""
        try:
            known = self._json("/object_info/Attractor_Train")
            said = self._json("/attractor/version") if known else {}
            query = urllib.parse.urlencode({
                "model": _checkpoint(plan), "image_encoder": plan.image_encoder, "text_encoder": plan.text_encoder,
                "backend": plan.masking.backend, "kind": plan.masking.saliency_model})  # fmt: skip
            stamps = self._json(f"/attractor/version?{query}")["stamps"] if said.get("version") == VERSION else {}
        except _Gone as error:
            raise AttractorError(f"--hosts: {error}") from error
        except urllib.error.HTTPError as error:
            why = " ".join(error.read().decode("utf-8", "replace").split())[:300]
            raise AttractorError(f"{self.address}: {_said_plainly(why)}") from error
        if not known:
            raise AttractorError(f"{self.address}: this ComfyUI does not have the Attractor pack. Install it there.")
        if said.get("version") != VERSION:
            raise AttractorError(f"{self.address}: has version {said.get('version')} of the pack, and this is "
                                 f"{VERSION}: bring both to the same.")  # fmt: skip
        if said.get("server") == os.environ.get(OWN_SERVER):
            raise AttractorError(f"{self.address}: is the ComfyUI that runs this sweep, and would wait for itself. "
                                 "Leave it out.")  # fmt: skip
        return stamps

    def run(self, plan: Plan, parcel: Mapping[str, Any], run: Mapping[str, Any], stop: threading.Event) -> dict:
        """Queue a run's graph and fetch what it made."""
        began = time.perf_counter()
        self._upload(parcel)
        name = f"sweep-{run['key'][:16]}"
        outputs = self._queue(graph(plan, parcel, run, name), stop)
        files = {file: self._view(file, f"attractor/{name}") for file in ("report.json", "report.csv", "report.html")}
        files["concept.safetensors"] = self._bytes(f"/attractor/concept/{name}")
        pictures = [self._view(i["filename"], i["subfolder"]) for i in outputs["pictures"]["images"]]
        files |= _with_text(pictures, files)
        seconds = time.perf_counter() - began
        parts = {"train": seconds, "paint": 0.0, "score": 0.0}
        return {"files": files, "seconds": seconds, "parts": parts, "worker": self.address}

    def _upload(self, parcel: Mapping[str, Any]) -> None:
        if parcel["key"] in self._uploaded:
            return
        for path, data in parcel["files"].items():
            where = PurePosixPath(_FOLDER, parcel["key"][:16], path)
            self._post_file("/upload/image", where.name, str(where.parent), data)
        self._uploaded.add(parcel["key"])

    def _queue(self, made: dict, stop: threading.Event) -> dict:
        try:
            number = self._json("/prompt", {"prompt": made, "client_id": f"attractor-{uuid.uuid4().hex}"})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise AttractorError(f"{self.address} refuses the graph: {_said(error)}") from error
        missing = 0
        while True:
            if stop.is_set():
                self._take_back(number)
                raise _Gone("stopped")
            found = self._json(f"/history/{number}").get(number)
            if found is not None:
                break
            missing = 0 if self._has(number) else missing + 1
            if missing > _FORGOTTEN:
                raise _Gone(f"{self.address}: knows nothing of the graph any more: it was started anew, or somebody "
                            "took the graph out of its queue.")  # fmt: skip
            stop.wait(_POLL)
        if found["status"]["status_str"] != "success":
            errors = [data for kind, data in found["status"]["messages"] if kind == "execution_error"]
            why = errors[0].get("exception_message", "").strip() if errors else "it was interrupted there"
            raise AttractorError(f"{why} ({self.address})")
        return found["outputs"]

    def _has(self, number: str) -> bool:
        waiting = self._json("/queue")
        return any(item[1] == number for name in ("queue_running", "queue_pending") for item in waiting[name])

    def _take_back(self, number: str) -> None:
        """Out of the queue; interrupted only where it is this one that runs."""
        try:
            running = [item[1] for item in self._json("/queue")["queue_running"]]
            self._json("/queue", {"delete": [number]})
            if number in running:
                self._json("/interrupt", {"prompt_id": number})
        except (_Gone, KeyError, IndexError):
            pass

    def _view(self, name: str, folder: str) -> bytes:
        query = urllib.parse.urlencode({"filename": name, "subfolder": folder, "type": "output"})
        return self._bytes(f"/view?{query}")

    def _json(self, path: str, data: dict | None = None) -> dict:
        answer = self._bytes(path, None if data is None else json.dumps(data).encode(), "application/json")
        try:
            return json.loads(answer) if answer.strip() else {}
        except ValueError as error:
            raise _Gone(f"{self.address}: answers, but not as a ComfyUI does.") from error

    def _post_file(self, path: str, name: str, folder: str, data: bytes) -> None:
        mark = uuid.uuid4().hex
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
                 for key, value in (("subfolder", folder), ("type", "input"), ("overwrite", "true"))]  # fmt: skip
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        body = b"".join([*parts, head, data, f"\r\n--{mark}--\r\n".encode()])
        self._bytes(path, body, f"multipart/form-data; boundary={mark}")

    def _bytes(self, path: str, data: bytes | None = None, kind: str = "") -> bytes:
        """The answer's body. Raises _Gone when there is none for a while, HTTPError when the host says no."""
        request = urllib.request.Request(self.address + path, data)  # noqa: S310 - the scheme was checked
        if kind:
            request.add_header("Content-Type", kind)
        ends = time.monotonic() + (_PATIENCE if data is None and path.startswith("/history") else 0)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    return answer.read()
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
                why: Any = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                why = getattr(error, "reason", None) or str(error) or type(error).__name__
            if time.monotonic() > ends or self._stop.is_set():
                raise _Gone(f"{self.address}: no ComfyUI answers there ({why}).")
            self._stop.wait(2)


def graph(plan: Plan, parcel: Mapping[str, Any], run: Mapping[str, Any], name: str) -> dict:
    """A run as a graph in API format. name: of its report, pictures and concept on the host."""
    def node(kind: str, **inputs: Any) -> dict:
        return {"class_type": kind, "inputs": inputs}

    files, how = parcel["files"], plan.painting
    folder, split = f"{_FOLDER}/{parcel['key'][:16]}", any(path.startswith("train/") for path in files)
    loader = node("Attractor_LoadDemo") if plan.model == "demo" else node(
        "CheckpointLoaderSimple", ckpt_name=_checkpoint(plan))  # fmt: skip
    model = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2]}
    settings = dict(run["settings"])
    grid = {"prompts": "\n".join(parcel["prompts"]), "negative": how.negative, "first_seed": how.first_seed,
            "seeds": how.seeds, "steps": how.steps, "cfg": how.cfg, "sampler_name": "euler", "scheduler": "normal",
            "width": how.size, "height": how.size, "batch_size": 4}  # fmt: skip
    masking = plan.masking
    made = {
        "model": loader,
        "photos": node("Attractor_LoadSubject", folder=f"{folder}/train" if split else folder,
                       class_word=parcel["word"]),
        "mask": node("Attractor_Mask", subject=["photos", 0], back_end=masking.backend, grow=masking.grow,
                     feather=masking.feather, fill_holes=True, saliency_model=masking.saliency_model,
                     unit=masking.unit, edges=masking.edges, **model),
        "train": node("Attractor_Train", **model, train_set=["mask", 0] if split else ["split", 0],
                      training_seed=settings.pop("seed"), preview_every=0, preview_prompt=parcel["prompts"][0],
                      **settings),
        "grid": node("Attractor_SampleGrid", **model, concept=["train", 0], class_word="", **grid),
        "base": node("Attractor_SampleGrid", **model, class_word=parcel["word"], **grid),
        "save": node("Attractor_SaveConcept", concept=["train", 0], name=name, when_exists="overwrite"),
        "pictures": node("SaveImage", images=["grid", 0], filename_prefix=f"attractor/{name}/picture"),
        "score": node("Attractor_Score", generations=["grid", 2], base_generations=["base", 2],
                      train_set=["mask", 0] if split else ["split", 0],
                      held_out_set=["unseen", 0] if split else ["split", 1], image_encoder=plan.image_encoder,
                      text_encoder=plan.text_encoder or "none", report_name=name),
    }  # fmt: skip
    if split:
        made["unseen"] = node("Attractor_LoadSubject", folder=f"{folder}/test", class_word=parcel["word"])
    else:
        made["split"] = node("Attractor_Split", subject=["mask", 0], held_out=plan.held_out,
                             split_seed=plan.split_seed)  # fmt: skip
    return made


def _with_text(pictures: Sequence[bytes], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The pictures under the sweep's names, with how they were made in their text, as workers write them."""
    report = json.loads(files["report.json"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "concept.safetensors"
        write_beside(path, lambda file: file.write_bytes(files["concept.safetensors"]))
        concept = load_concept(path)
    images = torch.stack([from_picture(Image.open(io.BytesIO(data))) for data in pictures])
    items = tuple(Generated(**item) for item in report["pictures"])
    made = Generations(images, items, report["class_word"], concept)
    return {f"{i:04d}.png": made.png(i) for i in range(len(items))}


def _checkpoint(plan: Plan) -> str:
    """The base model's name on a host."""
    return Path(plan.model).name if Path(plan.model).is_absolute() else plan.model


def _said_plainly(text: str) -> str:
    """The message of an answer in JSON, or the answer."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text


def _said(error: urllib.error.HTTPError) -> str:
    """What a host says of a graph that it refuses: the first message that names something."""
    try:
        data = json.loads(error.read())
        nodes = [e for one in data.get("node_errors", {}).values() for e in one.get("errors", [])]
        found = [f"{e.get('message', '')} {e.get('details', '')}".strip() for e in nodes]
        return found[0] if found else data["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(error)
