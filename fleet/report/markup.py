"""HTML from Python: text is escaped unless it is `Html` already.

Not here: what the page says (`page` and its sections).
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        content: text, or HTML.
        shade: depth of its background, 0..1; None for none.
        is_best: whether it is the best of its column.
    """

    content: str
    shade: float | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Column:
    """A table's column; `title` explains it where a pointer rests on it; text is on the left, numbers on the right."""

    heading: str
    title: str = ""
    is_text: bool = False


def safe(text: str) -> Html:
    """Return text as HTML, escaped unless it is `Html`."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def join(parts: Sequence[str], between: str = "\n") -> Html:
    """Return several pieces as one."""
    return Html(between.join(safe(part) for part in parts))


def element(tag: str, content: str = "", **attributes: str) -> Html:
    """Return an element; `class_` stands for the attribute `class`, and `_` for `-`."""
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{words}>{safe(content)}</{tag}>")


def data(identity: str, value: Any) -> Html:
    """Return values for the page's script, as JSON in an element of that id."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(identity)}">{text}</script>')


def table(columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]]) -> Html:
    """Return a table in a box that scrolls sideways where the page is too narrow."""
    head = "".join(f'<th scope="col"{_kind(column)}{_title(column)}>{safe(column.heading)}</th>' for column in columns)
    body = "\n".join(
        "<tr>" + "".join(_cell(cell, column) for cell, column in zip(row, columns, strict=True)) + "</tr>"
        for row in rows
    )
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>')


def _kind(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _title(column: Column) -> str:
    return f' title="{html.escape(column.title)}"' if column.title else ""


def _cell(cell: str | Cell, column: Column) -> str:
    if isinstance(cell, str):
        cell = Cell(cell)
    classes = [name for name, is_set in (("text", column.is_text), ("best", cell.is_best)) if is_set]
    kind = f' class="{" ".join(classes)}"' if classes else ""
    shade = f' style="--shade:{cell.shade:.0%}" data-shaded' if cell.shade is not None else ""
    return f"<td{kind}{shade}>{safe(cell.content)}</td>"


def section(identity: str, heading: str, *content: str) -> Html:
    """Return a section with a heading that the table of contents can point at."""
    return Html(f'<section id="{identity}">\n<h2>{safe(heading)}</h2>\n{join(content)}\n</section>')


def choice(label: str, shows: str, options: Sequence[tuple[str, str]]) -> Html:
    """Return a list to choose from; the script shows what has `data-group` of that name and the chosen `data-key`."""
    items = "".join(f'<option value="{html.escape(key)}">{safe(text)}</option>' for key, text in options)
    return Html(
        f'<label class="choice">{safe(label)} <select data-shows="{html.escape(shows)}">{items}</select></label>'
    )


def chosen(group: str, key: str, content: str, *, is_first: bool) -> Html:
    """Return content that is shown while its key is chosen."""
    hidden = "" if is_first else " hidden"
    return Html(f'<div data-group="{html.escape(group)}" data-key="{html.escape(key)}"{hidden}>{safe(content)}</div>')


def switch(label: str, action: str, target: str, options: Sequence[tuple[str, str]]) -> Html:
    """Return a row of buttons, the first pressed; the script does `action` on `target` with the pressed one's key."""
    buttons = "".join(
        f'<button type="button" value="{html.escape(key)}" aria-pressed="{"false" if k else "true"}">'
        f"{safe(text)}</button>"
        for k, (key, text) in enumerate(options)
    )
    return Html(
        f'<span class="switch" role="group" aria-label="{html.escape(label)}" data-action="{html.escape(action)}" '
        f'data-target="{html.escape(target)}"><span>{safe(label)}</span>{buttons}</span>'
    )
