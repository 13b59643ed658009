"""Engine that falls back to the CPU when its execution provider fails."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from palm_serve.errors import EngineError, EngineTimeout
from palm_serve.types import EngineInfo, FloatArray, PaddedBatch, ServedEngine

log = logging.getLogger(__name__)


class FallbackEngine:
    """Runs on one engine until it fails, and on another from then on.

    A provider may fail on a graph that it has opened: the device is lost, its memory is full, or a kernel is missing.

    Args:
        engine: the selected engine.
        open_fallback: opens the engine that works everywhere.
    """

    def __init__(self, engine: ServedEngine, open_fallback: Callable[[], ServedEngine]) -> None:
        self._engine = engine
        self._open_fallback: Callable[[], ServedEngine] | None = open_fallback

    @property
    def info(self) -> EngineInfo:
        """Provider and precision of the engine that runs now."""
        return self._engine.info

    @info.setter
    def info(self, value: EngineInfo) -> None:
        self._engine.info = value

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return graph outputs by name, as float32. `outputs` selects some of them (None: all).

        Raises:
            EngineError: both engines failed.
            EngineTimeout: `interrupt` has ended the run.
        """
        try:
            return self._engine.run(batch, outputs)
        except EngineTimeout:
            raise
        except Exception as error:  # the exceptions of the runtimes share no base class
            if self._open_fallback is None:
                raise
            failed = self.info
            open_fallback = self._open_fallback
            self._open_fallback = None
            try:
                self._engine = open_fallback()
                self.info = replace(self.info, selection=failed.selection)
            except EngineError as fallback_error:
                raise EngineError(
                    f"{failed.provider} failed while running: {error}; and then: {fallback_error}"
                ) from error
            log.error(
                "%s in %s failed while running, the model goes on on %s in %s: %s",
                failed.provider,
                failed.precision,
                self.info.provider,
                self.info.precision,
                error,
            )
        return self._engine.run(batch, outputs)

    def interrupt(self) -> None:
        """Ask the run in progress to end with EngineTimeout."""
        self._engine.interrupt()

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Return the rows and tokens that a batch of this size should be padded to."""
        return self._engine.shape(rows, length)
