"""The sharing of adapters as a real Flower app: vehicles are SuperNodes, rounds are held by a SuperLink.

What a vehicle computes, what is made of the updates and the order in which they count are those of a run; time is
real, so bytes and links are not simulated, every vehicle is asked in every round, and none is late before `round-s`.
`flwr run` finds both apps by `pyproject.toml`; each SuperNode says which vehicle it is by `partition-id`.

Not here: the strategies and their guard (`sharing`), training (`adapting`), virtual time (`adapter_exchange`).
"""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from roadbits.codecs.adaptation.danice import AdapterError
from roadbits.codecs.adaptation.update import unpacked, vector_of
from roadbits.fleet.adaptation_words import Adaptation
from roadbits.fleet.adapter_exchange import first_vector, lessons_of_round, update_of
from roadbits.fleet.adapting import Drive, Lesson, source_codec, train_adapter, watch
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario, scenario_path
from roadbits.fleet.sharing import GuardedStrategy, asked_by, reply_of

client_app = ClientApp()
server_app = ServerApp()

_FAILED = 1
_POLL_S = 1.0


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round's adapter on what this vehicle saw, or say why not."""
    scenario, words = _scenario(context)
    vehicle = int(context.node_config["partition-id"])
    lesson = _lesson(context, scenario, vehicle)
    if not lesson.frames:
        return Message(Error(_FAILED, f"vehicle {vehicle} noticed nothing of its domain"), reply_to=message)
    number, vector = asked_by(message)
    try:
        start = update_of(words, vector) if number > 1 else b""
        update = train_adapter(lessons_of_round(scenario, words.seeds[0], number, lesson, start))
        trained = vector_of(unpacked(source_codec(words).model, update))
    except (AdapterError, DataError) as error:
        return Message(Error(_FAILED, f"vehicle {vehicle}: {error}"), reply_to=message)
    return Message(reply_of(vehicle, trained, len(lesson.frames)), reply_to=message)


def _lesson(context: Context, scenario: Scenario, vehicle: int) -> Lesson:
    """Return what a vehicle learns; it drives once and remembers."""
    if "lesson" not in context.state:
        domain = str(context.run_config["domain"])
        notices = [each for each in watch(Drive(scenario, vehicle)).notices if each.domain == domain]
        frames = list(notices[0].frames) if notices else []
        context.state["lesson"] = ConfigRecord({"frames": json.dumps(frames)})
    kept = context.state["lesson"]
    assert isinstance(kept, ConfigRecord)
    return Lesson(vehicle, tuple(json.loads(str(kept["frames"]))))


@server_app.main()
def share_adapter(grid: Grid, context: Context) -> None:
    """Wait for the vehicles, hold the rounds, and write the adapter's file.

    Raises:
        ValueError: if the words cannot come to anything.
        TimeoutError: if too few vehicles come.
        RuntimeError: if no round had its quorum.
    """
    scenario, words = _scenario(context)
    config = context.run_config
    vehicles, out = (
        int(config["vehicles"]) or scenario.fleet.num_vehicles,
        Path(str(config["out"])).expanduser().absolute(),
    )
    if not words.quorum <= vehicles <= scenario.fleet.num_vehicles:
        raise ValueError(
            f"vehicles is {vehicles}, expected from the quorum of {words.quorum} to all {scenario.fleet.num_vehicles}"
        )
    domains: tuple[str, ...] = getattr(scenario.cameras, "domains", ())
    if domains and config["domain"] not in domains:
        raise ValueError(f"domain is {config['domain']!r}, the vehicles drive through {', '.join(domains)}")
    if words.vehicles_per_round is not None:
        raise ValueError("adaptation.vehicles_per_round is of virtual time: here every vehicle is asked in every round")
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ValueError(f"out is {out}: give a file NAME.safetensors in a folder that exists")
    _await(grid, vehicles, float(config["patience-s"]))
    strategy = GuardedStrategy(words.strategy, words.quorum, scenario.fleet.num_vehicles)
    vector = strategy.shared(grid, first_vector(words), words.rounds, float(config["round-s"]))
    for each in strategy.rounds:
        refused = "".join(f"; {who}: {why}" for who, why in each.refused.items())
        verdict = "shared" if each.has_quorum else f"no quorum of {words.quorum}, the adapter stays as it is"
        print(f"round {each.number}: vehicles {list(each.accepted)}{refused}: {verdict}", flush=True)  # noqa: T201
    if not any(each.has_quorum for each in strategy.rounds):
        raise RuntimeError(
            f"no round of {len(strategy.rounds)} had its quorum of {words.quorum}: no adapter is written"
        )
    adapter = unpacked(source_codec(words).model, update_of(words, vector)).freeze(
        str(config["domain"]), words.all_steps
    )
    adapter.save(out)
    print(f"adapter {adapter.hash.hex()}: use it as {words.codec}+{out}", flush=True)  # noqa: T201


def _await(grid: Grid, vehicles: int, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while (there := len(list(grid.get_node_ids()))) < vehicles:
        if time.monotonic() > until:
            raise TimeoutError(f"{there} of {vehicles} vehicles came within {patience_s:g} s: start their SuperNodes")
        time.sleep(_POLL_S)


def _scenario(context: Context) -> tuple[Scenario, Adaptation]:
    """Return a run's scenario and its words of adaptation.

    Raises:
        FileNotFoundError: if there is none of that name.
        YamlFileError: if it cannot be read.
        ValueError: if nothing adapts in it, or it is a sweep.
    """
    config = context.run_config
    name, settings = str(config["scenario"]), str(config["set"])
    scenarios = load_scenario(scenario_path(name), tuple(each.strip() for each in settings.split(";") if each.strip()))
    if len(scenarios) != 1 or scenarios[0].adaptation is None:
        raise ValueError(f"{name} must be one scenario with an adaptation")
    return scenarios[0], scenarios[0].adaptation
