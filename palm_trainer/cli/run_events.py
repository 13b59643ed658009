"""Events of a training as commands take them: stopped by signals, and with errors as messages."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from palm_trainer.cli.stop_request import StopRequest
from palm_trainer.errors import PalmError

if TYPE_CHECKING:  # torch takes seconds to load, and `--help` does not need it
    from palm_trainer.config.loader import Config
    from palm_trainer.runs.events import Event


def listen_from_start(events: "Iterator[Event]", stop: StopRequest) -> "Iterator[Event]":
    """Yield the events of a training. Signals ask it to stop once it has started: to prepare it may take minutes."""
    for number, event in enumerate(events):
        if number == 0:
            stop.listen()
        yield event


def guarded(events: "Iterator[Event]") -> "Iterator[Event]":
    """Convert memory and disk errors to a message for the user."""
    try:
        yield from events
    except MemoryError as error:
        raise PalmError(f"out of memory: {error}. Lower train.batch_size or encoder.max_length.") from error
    except OSError as error:
        raise PalmError(
            f"{error.filename or 'output'}: {error.strerror or error}. Free some space or choose another --output."
        ) from error


def tell_how_to_continue(settings: "Config") -> None:
    """Print the command that continues a stopped run."""
    from palm_trainer.runs.file_names import CONFIG

    saved = settings.train.output / CONFIG  # includes the values of --set and --output
    command = f"palm-train run {saved} --output {settings.train.output} --resume"
    print(f"stopped; continue with: {command}", file=sys.stderr)
