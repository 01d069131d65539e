"""People's judgement: a blind study that the host serves, and what they said so far."""

from __future__ import annotations

from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..metrics.charts import people_chart
from ..metrics.generations import from_picture
from ..metrics.study import QUESTIONS, create, others_with_votes, state_of
from .host import folders, panels
from .host.routes import study_address, study_link
from .types import CATEGORY, GenerationsType, StudyType, SubjectSetType, names_of, schema, to_host


class Study(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Study",
            display_name="Blind Study",
            search_aliases=["vote", "human preference", "user study", "A/B test"],
            category=CATEGORY,
            description="Ask people which picture they prefer, without saying whose it is. Open the link, vote, queue "
            "again to see the result. The same pictures, photos, question, pairs and seed are the same study, with its "
            "votes. For other machines start ComfyUI with --listen and give the link with this machine's address.",
            is_output_node=True,
            inputs=[
                GenerationsType.Input("generations_a", tooltip="Pictures of the first run."),
                GenerationsType.Input("generations_b", tooltip="The same prompts and seeds, painted another way."),
                io.String.Input(
                    "names", multiline=True, default="a\nb",
                    tooltip="What the runs are called in the result, one a line. Voters do not see it.",
                ),
                io.Combo.Input("question", options=list(QUESTIONS), default="subject",
                               tooltip="What is asked: subject fidelity, prompt fidelity, or which picture overall."),
                io.Int.Input("pairs", default=40, min=1, max=2000,
                             tooltip="Pairs that each voter is asked at most; a tenth more catch who does not look."),
                io.Int.Input("study_seed", default=0, min=0, max=2**53, tooltip="Which pairs are chosen."),
                SubjectSetType.Input("held_out_set", optional=True,
                                     tooltip="Photos of the subject to show beside the question; four at most."),
                GenerationsType.Input("generations_c", optional=True, tooltip="A third run."),
                GenerationsType.Input("generations_d", optional=True, tooltip="A fourth run."),
            ],
            outputs=[
                StudyType.Output("study", display_name="study"),
                io.String.Output("link", display_name="link"),
                io.String.Output("text", display_name="text"),
                io.Image.Output("chart", display_name="chart"),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_):
        """A new vote is a new result."""
        return state_of(folders.studies_folder())

    @classmethod
    def execute(
        cls, generations_a, generations_b, names, question, pairs, study_seed, held_out_set=None, generations_c=None,
        generations_d=None,
    ):  # fmt: skip
        runs = [g for g in (generations_a, generations_b, generations_c, generations_d) if g is not None]
        if question == "subject" and held_out_set is None:
            raise AttractorError("held_out_set is not connected: voters who are asked about the subject must see it. "
                                 "Connect the held-out set of Attractor_Split, or choose another question.")
        references = held_out_set.photos if held_out_set is not None else ()
        study = create(folders.studies_folder(), runs, names_of(names), question, pairs, study_seed, references)
        people, link = study.result(), study_address() + study_link(study)
        text = f"vote: {link}\n{people.text}"
        if not people.votes and (others := others_with_votes(folders.studies_folder(), study)):
            text += (f"\nStudies of the same prompts have votes: {', '.join(others)}. Their pictures, photos, pairs or "
                     "seed were others; put those back to find the votes.")  # fmt: skip
        chart = to_host(from_picture(people_chart(people))[None])
        panel = panels.panel_of_study(study_link(study), people.votes, len(people.raters))
        return io.NodeOutput(people, link, text, chart, ui={"text": (text,), **panel})
