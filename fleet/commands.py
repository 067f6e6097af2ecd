"""What commands share: exit codes, the option that overrides a file's keys, and one message for each of our errors.

Not here: the commands (`cli`, `codec_commands`).
"""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import click

WRONG_USE, FAILED, INTERRUPTED = 2, 3, 130
"""Exit codes; 0 is done."""


def fail(message: object, code: int) -> NoReturn:
    """End with a message and an exit code."""
    click.echo(f"roadbits: {message}", err=True)
    raise SystemExit(code)


def settings_option(of_what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that overrides keys of a file."""
    told = f"Override {of_what}. Repeatable."
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=told)


def exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the program's errors into one clear message and the promised exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except click.ClickException:
            raise
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        except Exception as error:
            code = _code_of(error)
            if code is None:
                raise
            fail(error, code)

    return wrapped


def _code_of(error: Exception) -> int | None:
    """Return the exit code of an error of ours, or of the system's; None of any other."""
    # Only now: what raises them takes seconds to load, which a command that needs none of it should not wait for.
    from roadbits.codecs.bitstream import BitstreamError
    from roadbits.codecs.image import ImageFileError
    from roadbits.codecs.integer import InexactArithmeticError
    from roadbits.codecs.legacy.passthrough import VideoFileError
    from roadbits.fleet.backend import BackendError
    from roadbits.fleet.cameras.frame import DataError
    from roadbits.fleet.collection import OtherCollectionError
    from roadbits.fleet.export import ExportError
    from roadbits.fleet.feasibility import DeviceError
    from roadbits.fleet.finished_stages import StagesMissing
    from roadbits.fleet.results import ResultsError
    from roadbits.fleet.run import RunError
    from roadbits.fleet.store import StoreError
    from roadbits.fleet.uplink import UplinkError
    from roadbits.fleet.yaml_file import YamlFileError
    from roadbits.restoration.restoring import RestorerWeightsError

    wrong_use = (
        YamlFileError,
        RunError,
        ResultsError,
        ImageFileError,
        VideoFileError,
        UplinkError,
        DataError,
        DeviceError,
        OtherCollectionError,
        ExportError,
        StagesMissing,
        FileNotFoundError,
        IsADirectoryError,
    )
    failed = (StoreError, BackendError, BitstreamError, InexactArithmeticError, RestorerWeightsError, OSError)
    if isinstance(error, wrong_use):
        return WRONG_USE
    return FAILED if isinstance(error, failed) else None
