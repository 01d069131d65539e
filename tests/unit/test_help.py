"""The help pages: one for each node and language, as the schemas and the texts say now."""

from attractor_pack.tools.help.pages import all_pages, by_hand
from attractor_pack.tools.host import ROOT
from PIL import Image

DOCS = ROOT / "web" / "docs"


def test_pages_are_those_that_the_tool_would_write():
    wanted = all_pages()
    assert {(f.parent.name, f.stem) for f in DOCS.glob("*/*.md")} == set(wanted)
    for (name, language), text in wanted.items():
        written = (DOCS / name / f"{language}.md").read_text(encoding="utf-8")
        assert written == text, f"{name}/{language}.md: run python -m attractor_pack.tools.help"


def test_every_node_has_a_picture_and_a_text_in_every_language():
    names = {name for name, _ in all_pages()}
    for name in names:
        with Image.open(DOCS / name / "picture.jpg") as picture:
            assert 300 < picture.width < 1600 and picture.height > 100
    for language in ("en", "ja", "zh"):
        assert set(by_hand(language)) == names and all(len(text) > 40 for text in by_hand(language).values())
