"""Runs side by side."""

from __future__ import annotations

from comfy_api.latest import io

from ..metrics.charts import comparison_chart
from ..metrics.compare import compare_reports
from ..metrics.generations import from_picture
from ..metrics.page import write_comparison
from ..training.concept import check_name
from .host import folders, panels
from .types import CATEGORY, ReportType, StudyType, names_of, schema, to_host


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Compare",
            display_name="Compare Runs",
            search_aliases=["A/B", "significance", "benchmark"],
            category=CATEGORY,
            description="Two to four scored runs, paired by prompt and seed: what is better, what is worse, what "
            "cannot be told apart. With a study of the same runs: how well each measure agrees with people.",
            is_output_node=True,
            inputs=[
                ReportType.Input("report_a", tooltip="What the others are compared with."),
                ReportType.Input("report_b",
                                 tooltip="Scored on the same prompts, seeds, held-out photos and encoders."),
                io.String.Input("names", multiline=True, default="a\nb",
                                tooltip="What the runs are called, one a line."),
                io.String.Input("report_name", default="",
                                tooltip="Writes output/attractor/<name>/comparison.html; empty writes none."),
                ReportType.Input("report_c", optional=True, tooltip="A third run."),
                ReportType.Input("report_d", optional=True, tooltip="A fourth run."),
                StudyType.Input("study", optional=True, tooltip="A blind study of these runs, with the same names."),
            ],
            outputs=[
                io.Image.Output("chart", display_name="chart"),
                io.String.Output("text", display_name="text"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, report_a, report_b, names, report_name, report_c=None, report_d=None, study=None):
        folder = folders.report_folder(check_name(report_name.strip())) if report_name.strip() else None
        reports = [r for r in (report_a, report_b, report_c, report_d) if r is not None]
        found = compare_reports([r.as_dict() for r in reports], names_of(names), study)
        text, page = found.text, None
        if folder is not None:
            _, page = write_comparison(found, folder, reports)
            text += f"\npage: {page}"
        panel = panels.verdicts([(n, r.verdict) for n, r in zip(found.names, reports, strict=True)], page)
        chart = to_host(from_picture(comparison_chart(found))[None])
        return io.NodeOutput(chart, text, ui={"text": (text,), **panel})
