"""A training's page: rate and quality on real bytes at its validations, and the loss over its steps.

Self-contained: plotly.js is in the file.

Not here: the pages of runs (`page`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plotly.subplots import make_subplots

from roadbits.fleet.stages import write_whole

_COLOUR = "#0072b2"
_FAINTEST = 0.15


def write_training_curves(log: Path, out: Path, name: str) -> None:
    """Write the page of a training from its log; the latest validation is drawn strongest."""
    # A resumed training repeats the steps after its checkpoint.
    validations = {event["step"]: event for event in _events(log) if event["event"] == "validation"}
    rows = [validations[step] for step in sorted(validations)]
    titles = ("real bytes, held-out images", "training, mean of the last 100 steps")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    for number, row in enumerate(rows, 1):
        figure.add_scatter(
            x=[point["bpp"] for point in row["points"]],
            y=[point["psnr_db"] for point in row["points"]],
            name=f"step {row['step']}",
            mode="lines+markers",
            line={"color": _COLOUR},
            opacity=_FAINTEST + (1 - _FAINTEST) * (number / len(rows)) ** 2,
            **_at(1),
        )
    trained = [row for row in rows if row["loss"] is not None]
    steps = [row["step"] for row in trained]
    figure.add_scatter(x=steps, y=[row["loss"] for row in trained], name="loss", mode="lines+markers", **_at(2))
    figure.update_layout(title=f"Training {name}", template="plotly_white", showlegend=False, height=480)
    figure.update_xaxes(title="bpp", type="log", row=1, col=1)
    figure.update_yaxes(title="PSNR, dB", row=1, col=1)
    figure.update_xaxes(title="step", row=1, col=2)
    figure.update_yaxes(title="loss", type="log", row=1, col=2)
    write_whole(out, figure.to_html(include_plotlyjs=True).encode())


def _events(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log, without lines that a full disk or a killed process cut off."""
    for line in log.read_text("utf-8", errors="replace").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _at(column: int) -> dict[str, Any]:
    return {"row": 1, "col": column}
