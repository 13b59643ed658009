"""Base of custom heads, which compute a loss and predictions from the outputs of reader and backbone."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from palm_serve.bundle.manifest import Kind
from palm_trainer.api.phase import Phase, check_phase

Attrs = dict[str, list[Any]]
Inputs = Mapping[str, Mapping[str, Tensor]]


class Head(nn.Module):
    """PyTorch module that declares its inputs and outputs by name. They are checked before the first step.

    A custom head defines `inputs_attrs`, `outputs_attr` and `build`.
    `batch_postprocess` and `epoch_postprocess` convert its outputs to answers.
    One object serves both phases: `phase` is `train` during training steps. See docs/how-to/train/custom_parts.md.

    Args:
        phase: `train` or `predict`.

    Raises:
        WiringError: another phase.
    """

    kind: ClassVar[Kind | Literal["custom"]] = "custom"
    """Kind of the package whose outputs the head has. Such a head is evaluated, exported and served as one of that kind.

    `custom`: predictions through the Python API only.
    """

    def __init__(self, phase: Phase = "train") -> None:
        super().__init__()
        check_phase(type(self).__name__, phase)
        self.train(phase == "train")
        self._results: list[dict[str, Any]] = []

    @property
    def phase(self) -> Phase:
        """`train` while the module is in training mode, else `predict`."""
        return "train" if self.training else "predict"

    @property
    def _phase(self) -> Phase:
        """PALM's name of `phase`."""
        return self.phase

    @property
    def inputs_attrs(self) -> dict[str, Attrs]:
        """Inputs in this phase: `{"reader": {name: [shape, dtype]}, "backbone": {...}}`. -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks inputs_attrs, its inputs from reader and backbone.")

    @property
    def outputs_attr(self) -> Attrs:
        """Outputs in this phase: name -> [shape, dtype]. In training they include `loss`."""
        raise NotImplementedError(f"{type(self).__name__} lacks outputs_attr, its outputs.")

    @property
    def epoch_inputs_attrs(self) -> dict[str, Attrs]:
        """Inputs of `epoch_postprocess` from the reader's `get_epoch_outputs`: `{"reader": {name: ...}}`."""
        return {}

    def build(self, inputs: Inputs, scope_name: str = "") -> dict[str, Tensor]:
        """Compute the outputs by name, in training with `loss`.

        Args:
            inputs: `inputs["reader"][name]` and `inputs["backbone"][name]`.
            scope_name: name of the task and a full stop, for names of parameters.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks build.")

    def batch_postprocess(self, rt_outputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep the outputs of a batch, one record per row. Called in prediction only."""
        rows = min(map(len, rt_outputs.values()), default=0)
        for row in range(rows):
            record = {}
            for name, value in rt_outputs.items():
                record[name] = np.asarray(value[row]).tolist()
            self._results.append(record)

    def reset(self) -> None:
        """Remove the kept records. Each `predict` starts with this call."""
        self._results = []

    def get_results(self) -> list[dict[str, Any]]:
        """Return a copy of the kept records."""
        return copy.deepcopy(self._results)

    def epoch_postprocess(
        self, post_inputs: Mapping[str, Mapping[str, Any]] | None = None, output_dir: str | Path | None = None
    ) -> list[Any]:
        """Return the answers at the end of the data.

        Args:
            post_inputs: values of the whole data, as `epoch_inputs_attrs` declares.
            output_dir: directory for the answers as JSON lines, in the file `PHASE`. None: not written.
        """
        if output_dir is not None:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in self._results)
            (folder / self.phase).write_text("".join(lines), encoding="utf-8")
        return self.get_results()
