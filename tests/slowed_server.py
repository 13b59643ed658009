"""A server whose engine takes a longer time that a test chooses, so that its speed depends little on the machine and its other work.

    python slowed_server.py SECONDS_A_BATCH SECONDS_A_TEXT ... run BUNDLE --port 0

What stands before `run` is passed over, so that it can also stand before a whole command of `palm-serve run`.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from palm_serve.cli import main
from palm_serve.engine.session import OrtEngine


def slow_down(batch_s: float, text_s: float) -> None:
    """Add a wait before each run of ONNX Runtime.

    Args:
        batch_s: seconds of each run.
        text_s: seconds more for each of its texts.
    """
    run = OrtEngine.run

    def run_slowly(engine: OrtEngine, batch: Any, outputs: Sequence[str] | None = None) -> Any:
        time.sleep(batch_s + text_s * len(next(iter(batch.arrays.values()))))
        return run(engine, batch, outputs)

    OrtEngine.run = run_slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_down(float(sys.argv[1]), float(sys.argv[2]))
    del sys.argv[1 : sys.argv.index("run")]
    main()
