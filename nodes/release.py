"""The release gate: may these pictures go out?"""

from __future__ import annotations

import json
from datetime import date

from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..studio.gate import decide, write_decision
from ..studio.measures import Evidence
from ..studio.policy import NAMES, load_policy
from ..training.concept import check_name
from .host import folders, panels
from .types import CATEGORY, ReportType, StudyType, schema

_OWN = "own file"


class ReleaseGate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_ReleaseGate",
            display_name="Release Gate",
            search_aliases=["policy", "approve", "compliance", "consent", "legal"],
            category=CATEGORY,
            description="Pass or block a scored concept by a policy: copies, memorisation, leak, prompts, rights of "
            "the photos. Says which rule blocks and by which pictures, and writes a record of the decision.",
            is_output_node=True,
            inputs=[
                ReportType.Input("report", tooltip="What Score Concept gave."),
                io.Combo.Input(
                    "policy", options=[*NAMES, _OWN], default="catalogue",
                    tooltip="From lax to strict. Rights of photos come from a manifest.csv beside them.",
                ),
                io.String.Input(
                    "own_policy", default="", tooltip="For 'own file': a JSON file in ComfyUI's input folder."
                ),
                io.String.Input(
                    "report_name", default="",
                    tooltip="Writes output/attractor/<name>/decision.json; empty writes none.",
                ),
                StudyType.Input("study", optional=True, tooltip="A blind study, for policies that ask people."),
                io.String.Input(
                    "run_name", default="", optional=True, tooltip="What this run is called in that study."
                ),
            ],
            outputs=[
                io.Boolean.Output("passed", display_name="passed"),
                io.String.Output("text", display_name="text"),
                io.String.Output("record", display_name="record (JSON)"),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, policy="", own_policy="", **_):
        """Consents end with time, and a file can be edited."""
        try:
            file = folders.input_file(own_policy, "own_policy").stat() if policy == _OWN and own_policy else None
        except (OSError, AttractorError):
            file = None
        return f"{date.today()} {file and (file.st_mtime_ns, file.st_size)}"

    @classmethod
    def execute(cls, report, policy, own_policy, report_name, study=None, run_name=""):
        chosen = policy if policy != _OWN else str(folders.input_file(own_policy, "own_policy"))
        data = report.as_dict()
        people = study.as_dict() if study is not None else None
        evidence = Evidence(data, data["rights"], date.today(), people, run_name.strip())
        decision = decide(load_policy(chosen), evidence)
        text = decision.text
        if report_name.strip():
            folder = folders.report_folder(check_name(report_name.strip()))
            text += f"\nrecord: {write_decision(decision, folder / 'decision.json')}"
        record = json.dumps(decision.as_dict(), indent=1, sort_keys=True, ensure_ascii=False)
        panel = panels.decision(decision)
        return io.NodeOutput(decision.passed, text, record, ui={"text": (text,), **panel})
