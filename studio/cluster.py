"""Ray as a sweep's executor: on this machine, or on a cluster by its address."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..attractor.errors import AttractorError
from .plan import Plan
from .sweep import Lost
from .work import stamps_of

_RETRIES = 3  # of a task whose worker died
_PATIENCE = 1.0  # seconds between two looks, so that a table goes on and Ctrl-C is heard
_CONNECT = 5.0  # seconds; Ray itself tries for minutes


class OverRay:
    """Tasks in Ray's workers, each of which loads the base model once.

    address: "" for this machine alone, "auto", "host:port" or "ray://host:port" of a cluster. cpus, gpus: of one task.
    Raises AttractorError when Ray is not installed or the cluster does not answer. A context manager.
    """

    def __init__(self, address: str = "", cpus: int = 1, gpus: float | None = None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
            import ray.exceptions
        except ImportError as error:
            raise AttractorError("Sweeps need Ray: run 'pip install ray diffusers accelerate'.") from error
        self._ray: Any = ray
        if find_spec("diffusers") is None:
            raise AttractorError(
                "Sweeps over Ray train with diffusers, which is not there: run 'pip install diffusers accelerate' in "
                "this Python, or give ComfyUI hosts in the place of Ray."
            )
        _check_reachable(address)
        here: dict[str, Any] = {} if address else {"num_cpus": os.cpu_count()}
        try:
            ray.init(address=address or "local", include_dashboard=None if address else False, log_to_driver=False,
                     logging_level=logging.ERROR, **here)  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise AttractorError(f"{address or 'Ray on this machine'}: {' '.join(str(error).split())[:300]}") from error
        there = ray.cluster_resources()
        self.gpus = gpus if gpus is not None else float(there.get("GPU", 0) >= 1)
        self.cpus = cpus
        self.slots = int(there.get("CPU", 0) // cpus)
        if self.gpus:
            self.slots = min(self.slots, int(there.get("GPU", 0) / self.gpus))
        if self.slots < 1:
            self.close()
            raise AttractorError(
                f"no machine can take a task of {cpus} cpus and {self.gpus:g} gpus: there are "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}. Lower cpus or gpus in the plan."
            )
        self.machines = max(1, sum(bool(node.get("Alive")) for node in ray.nodes()))
        remote = ray.remote(num_cpus=cpus, num_gpus=self.gpus, max_retries=_RETRIES)
        self._call = remote(_caller(str(Path(__file__).resolve().parents[1])))
        self._refs: list[Any] = []

    def __enter__(self) -> OverRay:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def stamps(self, plan: Plan) -> dict[str, str]:
        """Of the files on this machine; each worker compares its own."""
        return stamps_of(plan)

    def share(self, data: Any) -> Any:
        """Into Ray's object store, once for all that read it."""
        return self._ray.put(data)

    def submit(self, name: str, *arguments: Any) -> Any:
        """A task, by the name of its function in work.py."""
        ref = self._call.remote(name, list(arguments))
        self._refs.append(ref)
        return ref

    def next(self) -> tuple[Any, Any] | None:
        """The next that is done; None when there is none yet."""
        done, _ = self._ray.wait(self._refs, num_returns=1, timeout=_PATIENCE)
        if not done:
            return None
        self._refs.remove(done[0])
        try:
            return done[0], self._ray.get(done[0])
        except self._ray.exceptions.RayError as error:
            return done[0], Lost(_why(error))

    def cancel(self) -> None:
        """Stop what runs, on whatever machine."""
        for ref in self._refs:
            try:
                self._ray.cancel(ref, force=True)
            except (self._ray.exceptions.RayError, ValueError, RuntimeError):
                pass  # it is over, or the cluster is gone
        self._refs.clear()

    def close(self) -> None:
        """Leave the cluster; what was started on this machine ends."""
        self._ray.shutdown()


def _caller(folder: str) -> Callable[[str, list], Any]:
    """A function that Ray sends whole, so that a worker needs nothing of the pack before it has found it.

    folder: of the pack on this machine, where it need not be installed, as in a host's custom_nodes; machines that do
    not have that folder have the pack installed.
    """

    def call(name: str, arguments: list) -> Any:
        import importlib
        import os
        import sys
        import types

        import ray

        if "attractor_pack" not in sys.modules and os.path.isfile(os.path.join(folder, "studio", "work.py")):
            package = types.ModuleType("attractor_pack")
            package.__path__ = [folder]
            sys.modules["attractor_pack"] = package
        work = importlib.import_module("attractor_pack.studio.work")

        def found(value: Any) -> Any:
            return ray.get(value) if isinstance(value, ray.ObjectRef) else value

        return getattr(work, name)(*([found(v) for v in a] if isinstance(a, list) else found(a) for a in arguments))

    return call


def _check_reachable(address: str) -> None:
    """Raise AttractorError at once when nothing listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not address or address == "auto":
        return
    if not host or not port.isdigit():
        raise AttractorError(f"--address {address}: write host:port, such as 10.0.0.5:6379, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except (OSError, OverflowError) as error:
        raise AttractorError(
            f"--address {address}: no Ray cluster answers there ({error}). Start one with 'ray start --head', or leave "
            "the address out to use this machine."
        ) from error


def _why(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    kind = type(error).__name__
    known = {"WorkerCrashedError": "its worker died", "OutOfMemoryError": "the machine ran out of memory",
             "NodeDiedError": "its machine went away", "ObjectLostError": "its machine went away"}  # fmt: skip
    text = known.get(kind) or f"{kind}: {' '.join(str(error).split())[:300]}"
    return f"{text} (tried {_RETRIES + 1} times)" if kind in known else text
