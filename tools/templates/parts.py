"""What templates are made of: columns of nodes, each with a note above it, and the nodes that many of them have."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..graphs import PROMPTS, node

Ref = list  # [name of a node, number of its output]
WITH = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2]}


@dataclass(frozen=True)
class Column:
    """A step of a graph: its title, a line or two that explain it, and its nodes by name."""

    title: str
    note: str
    nodes: dict[str, dict]


@dataclass(frozen=True)
class Template:
    """A graph of the template browser. models: files that it needs. picture: the node whose picture is its thumbnail.

    after: templates whose files it uses. quick: inputs for a test, which need not paint well.
    """

    name: str
    columns: tuple[Column, ...]
    picture: str
    models: tuple[dict, ...] = ()
    after: tuple[str, ...] = ()
    quick: dict[str, dict] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, dict]:
        """All nodes by name: the graph in API format."""
        return {name: entry for column in self.columns for name, entry in column.nodes.items()}


def demo(note: str) -> Column:
    """The demo model and its subject."""
    return Column(
        "1 Demo model",
        f"A small checkpoint that comes with the pack, and a cup to learn. {note}",
        {"model": node("Attractor_LoadDemo")},
    )


def grid(concept: Ref | None = None, prompts: tuple[str, ...] = PROMPTS, word: str = "", **changes) -> dict:
    """Sample Grid, at the size of the demo unless changed."""
    return node(
        "Attractor_SampleGrid",
        **WITH,
        **({"concept": concept} if concept else {}),
        prompts="\n".join(prompts),
        class_word=word,
        **{"first_seed": 1, "seeds": 2, "batch_size": 6, "steps": 20, "cfg": 3.0, "width": 64, "height": 64, **changes},
    )


def training(**changes) -> dict:
    """Train Concept's widgets for the demo."""
    return {"steps": 300, "background_steps": 150, "vectors": 3, "resolution": 64, "zoom": 1.2, **changes}


def sets(subject: Ref, held_out: float, seed: int = 0) -> dict[str, dict]:
    """A split and its certificate."""
    return {
        "split": node("Attractor_Split", subject=subject, held_out=held_out, split_seed=seed),
        "certificate": node("PreviewAny", source=["split", 2]),
    }


def score(pictures: str, **changes) -> dict:
    """Score Concept of a grid's pictures on the split, beside the pictures of "base"."""
    return node(
        "Attractor_Score",
        generations=[pictures, 2],
        base_generations=["base", 2],
        train_set=["split", 0],
        held_out_set=["split", 1],
        **{"image_encoder": "demo-dino", "text_encoder": "demo-clip", **changes},
    )


def judged(title: str, note: str, **changes) -> Column:
    """The score of the pictures of "grid", its chart and its words."""
    return Column(
        title,
        note,
        {
            "score": score("grid", **changes),
            "chart": node("PreviewImage", images=["score", 1]),
            "verdict": node("PreviewAny", source=["score", 2]),
        },
    )
