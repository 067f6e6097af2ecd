"""The page: one self-contained HTML file of one or several runs.

The browser fetches nothing: style, script, plotly.js and pictures are in the file, and a Content-Security-Policy
forbids the rest.

Not here: the sections (`segmentation`, `rates`, `compute`, `delivery`, `gallery`), the terminal's table (`terminal`).
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from roadbits.fleet.report.adaptation import adaptation_section
from roadbits.fleet.report.compute import compute_section
from roadbits.fleet.report.delivery import delivery_section
from roadbits.fleet.report.gallery import strips_section
from roadbits.fleet.report.headline import headline
from roadbits.fleet.report.markup import Html, element, join, safe
from roadbits.fleet.report.measured import MeasuredRun, measured_arms, setups_of
from roadbits.fleet.report.palette import looks_of
from roadbits.fleet.report.rates import rates_section
from roadbits.fleet.report.restoration import restoration_section
from roadbits.fleet.report.segmentation import decomposition_section, miou_section, per_class_section
from roadbits.fleet.report.wording import number
from roadbits.fleet.results import Results, read_results
from roadbits.fleet.stages import write_whole
from roadbits.fleet.yaml_file import read_yaml

_DATA = ("kind", "path", "images", "test", "test_images")
"""The words of cameras that tell from where frames are."""


def write_report(run_folders: Sequence[Path], out: Path) -> None:
    """Write the page of one or several finished runs, which are compared in the same charts.

    A run whose stages are gone is reported without pictures.

    Raises:
        ResultsError: if a folder has no readable results.
        ValueError: if there is no folder.
    """
    if not run_folders:
        raise ValueError("expected one or more run folders, got none")
    runs = _named([(folder, read_results(folder)) for folder in run_folders])
    text = Template(_file("page.html")).substitute(
        title=safe(" · ".join(run.name for run in runs)),
        style=_file("page.css"),
        header=_header(runs),
        body=join(_sections(runs)),
        footer=_footer(runs),
        plotly=_plotly(),
        script=_file("page-script.html"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text.encode())


def _named(found: Sequence[tuple[Path, Results]]) -> list[MeasuredRun]:
    """Give every run a name of its own: its scenario's, with the folder where two are of one scenario."""
    times = Counter(results.scenario for _, results in found)
    names: list[str] = []
    for folder, results in found:
        name = results.scenario if times[results.scenario] == 1 else f"{results.scenario} ({folder.resolve().name})"
        names.append(name if name not in names else f"{results.scenario} ({folder.resolve()})")
    return [
        MeasuredRun(name, folder, results, measured_arms(results))
        for name, (folder, results) in zip(names, found, strict=True)
    ]


def _sections(runs: Sequence[MeasuredRun]) -> list[Html]:
    looks = looks_of(runs)
    setups = setups_of([arm for run in runs for arm in run.arms])
    sections = [miou_section(runs, looks)] if set(setups) - {"OO"} else []
    sections.append(rates_section(runs, looks))
    compute = compute_section(runs, looks)
    sections += [compute] if compute else []
    if setups:
        sections.append(decomposition_section(runs))
        restoration = restoration_section(runs)
        sections += [restoration] if restoration else []
        sections.append(per_class_section(runs))
    sections += [adaptation_section(run) for run in runs if run.results.adaptation]
    return [*sections, delivery_section(runs, looks), strips_section(runs)]


def _header(runs: Sequence[MeasuredRun]) -> Html:
    title = element("h1", runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared")
    return join([title, *_warning_of_unlike_data(runs), *(_introduction(run, len(runs) > 1) for run in runs)])


def _warning_of_unlike_data(runs: Sequence[MeasuredRun]) -> list[Html]:
    """Return a warning if runs were measured on frames of several worlds or folders."""
    seen: dict[str, str] = {}
    for run in runs:
        words = run.folder / "scenario.yaml"
        cameras = read_yaml(words).values["cameras"] if words.is_file() else {}
        data = [str(cameras[name]) for name in _DATA if cameras.get(name)]
        if data:
            seen.setdefault(", ".join(data), run.name)
    if len(seen) < 2:
        return []
    told = "; ".join(f"{name}: {data}" for data, name in seen.items())
    text = f"These runs have other data, on which neither rates nor mIoU compare ({told})."
    return [element("p", text, class_="warning")]


def _introduction(run: MeasuredRun, is_named: bool) -> Html:
    """Return a run's question, outcome, notes and how to repeat it."""
    results = run.results
    seeds = f" and segmenter seeds {', '.join(map(str, run.seeds))}" if run.seeds else ""
    repeat = join(
        [
            "Repeat it with",
            element("code", f"roadbits run {run.folder / 'scenario.yaml'} --out NEW_DIR"),
            f"(seed {results.seed}{seeds}); the same run has the digest",
            element("code", results.digest, class_="digest"),
        ],
        " ",
    )
    parts = [element("h2", run.name)] if is_named else []
    parts += [element("p", results.question, class_="question")] if results.question else []
    parts.append(headline(run))
    parts += [element("p", join(["Note:", note], " "), class_="warning") for note in results.notes]
    return element("div", join([*parts, element("p", repeat, class_="note")]), class_="introduction")


def _footer(runs: Sequence[MeasuredRun]) -> Html:
    parts = []
    for run in runs:
        timings = " · ".join(f"{name} {number(seconds, 1)} s" for name, seconds in run.results.timings_s.items())
        parts.append(element("p", join([element("b", run.name), f"Wall time: {timings or 'not recorded'}"], " ")))
        parts.append(element("p", join(["Files:", element("code", str(run.folder)), _files(run.folder)], " ")))
    parts.append(element("p", f"roadbits {version('roadbits')}. This page fetches nothing."))
    return join(parts)


def _files(folder: Path) -> str:
    """Return the names in a run's folder; of folders with the number of entries."""
    names = []
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            names.append(f"{path.name}/ ({sum(1 for _ in path.iterdir())})" if path.is_dir() else path.name)
    return ", ".join(names)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


@cache
def _plotly() -> str:
    """Return plotly.js; what would end its script element early is broken up."""
    return str(get_plotlyjs()).replace("</script", "<\\/script")
