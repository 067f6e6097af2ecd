"""How lines look: one look per run and line of arms, the same in every chart and legend.

Colours: Okabe & Ito, "Color Universal Design", 2008, without the yellow that vanishes on white. A symbol repeats what
the colour says, so the charts read without colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roadbits.fleet.report.markup import Html, element, join
from roadbits.fleet.report.measured import MeasuredRun

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
SYMBOLS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("triangle-down", "▼"))
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Look:
    """One line's look.

    Attributes:
        key: names the line in the page's script.
        label: names it to the reader.
        colour: of line and markers.
        symbol: of the markers, as plotly calls it.
        glyph: the symbol as a character.
        dash: of the line, as plotly calls it.
    """

    key: str
    label: str
    colour: str
    symbol: str
    glyph: str
    dash: str


def looks_of(runs: Sequence[MeasuredRun]) -> dict[tuple[str, str], Look]:
    """Return the look of every (run's name, line of arms): colour tells lines apart and dashes runs.

    Where all runs have one and the same line, colour tells runs apart.
    """
    lines = list(dict.fromkeys((run.name, arm.line) for run in runs for arm in run.arms))
    names = [run.name for run in runs]
    labels = list(dict.fromkeys(line for _, line in lines))
    looks = {}
    for position, (name, line) in enumerate(lines):
        at = names.index(name) if len(labels) == 1 else labels.index(line)
        symbol, glyph = SYMBOLS[at % len(SYMBOLS)]
        label = line if len(names) == 1 else f"{name} · {line}"
        dash = _DASHES[names.index(name) % len(_DASHES)]
        looks[name, line] = Look(f"line-{position}", label, COLOURS[at % len(COLOURS)], symbol, glyph, dash)
    return looks


def legend(looks: dict[tuple[str, str], Look]) -> Html:
    """Return buttons that show and hide each line in all charts of the section they stand in."""
    return element("div", join([_entry(look) for look in looks.values()]), class_="legend")


def _entry(look: Look) -> Html:
    line = element("i", style=f"border-top-style:{_border(look.dash)}")
    mark = element("span", join([line, element("b", look.glyph)], ""), style=f"color:{look.colour}", class_="mark")
    return element("button", join([mark, look.label], " "), type="button", aria_pressed="true", data_line=look.key)


def _border(dash: str) -> str:
    return {"solid": "solid", "dot": "dotted"}.get(dash, "dashed")
