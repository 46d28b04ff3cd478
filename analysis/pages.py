"""Turning templates into self-contained pages and Markdown, and writing them whole."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.svg import COLOURS

TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    template: str, series: Mapping[str, int], titles: Mapping[str, str], context: Mapping[str, object]
) -> str:
    """An HTML page that loads nothing; ``series`` numbers what has a colour by key, ``titles`` names it."""
    return (
        _environment(escape_html=True)
        .get_template(template)
        .render(
            context,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
            series=series,
            colours=COLOURS,
            backends=[(number, titles[key]) for key, number in series.items()],
        )
    )


def render_markdown(template: str, context: Mapping[str, object]) -> str:
    """Markdown for a terminal, a pull request or a job's page."""
    environment = _environment(escape_html=False)
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(context)


def _environment(escape_html: bool) -> Environment:
    return Environment(
        loader=PackageLoader("analysis"),
        autoescape=escape_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _cell(text: str) -> str:
    """Text that stays in its table cell and shows as it is."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return re.sub(r"[^\S\N{NO-BREAK SPACE}]+", " ", text).strip(" ")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
