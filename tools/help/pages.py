"""A node's help page in Markdown: description, picture, the text by hand, and its inputs and outputs as tables."""

from __future__ import annotations

import re
from pathlib import Path

from .. import schemas
from ..locales import read

HERE = Path(__file__).parent
_HEADINGS = {
    "en": ("Inputs", "input", "default and range", "what it does", "Outputs"),
    "ja": ("入力", "入力", "既定値と範囲", "説明", "出力"),
    "zh": ("输入", "输入", "默认值与范围", "说明", "输出"),
}


def by_hand(language: str) -> dict[str, str]:
    """The texts of a language, by node."""
    parts = re.split(r"^## (\w+)$", (HERE / f"{language}.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def page(node: str, language: str, schema: dict) -> str:
    """The whole page. schema: of the node, as tests/graphs/schemas.json has it."""
    texts, (inputs, name, values, does, outputs) = read(language)[node], _HEADINGS[language]
    rows = [_row(given, texts["inputs"][given["name"]]) for given in schema["inputs"]]
    given_out = [f"- {out['name']} ({kind})" for out, (kind, _) in zip(
        texts["outputs"].values(), schema["outputs"], strict=True)]  # fmt: skip
    parts = [
        f"# {texts['display_name']}",
        texts["description"],
        f"![{texts['display_name']}]({node}/picture.jpg)",
        by_hand(language)[node],
    ]
    if rows:
        parts += [f"## {inputs}", "\n".join([f"| {name} | {values} | {does} |", "|---|---|---|", *rows])]
    parts += [f"## {outputs}", "\n".join(given_out)]
    return "\n\n".join(parts) + "\n"


def _row(given: dict, text: dict) -> str:
    name = f"`{given['name']}`" if text["name"] == given["name"] else f"{text['name']} `{given['name']}`"
    return f"| {name} | {_values(given)} | {_cell(text['tooltip'])} |"


def _values(given: dict) -> str:
    """Default and range of an input, or its type where it is wired."""
    if "options" in given:
        return " / ".join(f"**{o}**" if o == given.get("default") else str(o) for o in given["options"])
    if given["type"] in ("INT", "FLOAT"):
        return f"{given['default']:g} ({given['min']:g} – {given['max']:g})"
    if given["type"] == "BOOLEAN":
        return "on" if given["default"] else "off"
    if given["type"] == "STRING":
        return _cell(given.get("default") or "")
    return given["type"] if given["type"] != "COMBO" else ""


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return text.replace("|", "\\|").replace("\n", " / ").replace("<", "&lt;")


def all_pages() -> dict[tuple[str, str], str]:
    """Every page, by node and language."""
    known = schemas.read()
    return {(node, language): page(node, language, known[node]) for node in known for language in _HEADINGS}
