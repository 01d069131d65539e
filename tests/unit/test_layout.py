"""What holds the rooms of the pack apart, whatever the folder is called that it was cloned into."""

import ast

import pytest
from attractor_pack.tools.host import ROOT

ROOMS = ("nodes", "attractor", "training", "metrics", "backend", "cli", "studio", "tools")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def absolute_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_the_packs_own_modules_are_imported_relatively(room):
    """The linter cannot say so: in a clone called attractor every relative import is one of attractor's."""
    own = [path for path in FILES if path.is_relative_to(ROOT / room)]
    wrong = [(path.name, name) for path in own for name in absolute_imports(path)
             if name.split(".")[0] in (*ROOMS, "attractor_pack")]  # fmt: skip
    assert len(own) > 2 and wrong == []
