"""An engine that outlives its provider."""

import logging
from collections.abc import Callable, Sequence

from palm_serve.errors import EngineError
from palm_serve.types import Engine, EngineInfo, FloatArray, PaddedBatch

log = logging.getLogger(__name__)


class FallbackEngine:
    """Runs on one engine until it fails, from then on on another.

    A graph that a provider opened may still fail in it: a device lost, its memory full, a kernel missing for one shape.

    Args:
        engine: the one that was chosen.
        spare: opens the one that works everywhere.
    """

    def __init__(self, engine: Engine, spare: Callable[[], Engine]) -> None:
        self._engine = engine
        self._spare: Callable[[], Engine] | None = spare

    @property
    def info(self) -> EngineInfo:
        """Of the engine that runs now."""
        return self._engine.info

    @info.setter
    def info(self, value: EngineInfo) -> None:
        self._engine.info = value

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Graph outputs by name, float32; `outputs` selects some (None: all). Raises EngineError when the spare engine fails, too."""
        try:
            return self._engine.run(batch, outputs)
        except Exception as error:  # the exceptions of the runtimes share no base class
            if self._spare is None:
                raise
            failed, spare, self._spare = self.info, self._spare, None
            try:
                self._engine = spare()
            except EngineError as lost:
                raise EngineError(f"{failed.provider} failed while running: {error}; and then: {lost}") from error
            log.error(
                "%s in %s failed while running, the model goes on on %s in %s: %s",
                failed.provider,
                failed.precision,
                self.info.provider,
                self.info.precision,
                error,
            )
        return self._engine.run(batch, outputs)

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        """Rows and tokens that a batch of this size should be padded to."""
        return self._engine.shape(rows, length)
