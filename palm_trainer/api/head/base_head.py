"""The base of heads that users write. A head turns what reader and backbone give into a loss, and into outputs when it predicts."""

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
Given = Mapping[str, Mapping[str, Tensor]]


class Head(nn.Module):
    """A PyTorch module with PALM's contract: what it takes and gives is declared by name, and checked before the first step.

    A head of your own has `inputs_attrs`, `outputs_attr` and `build`; `batch_postprocess` and `epoch_postprocess` make answers of its
    outputs. One object serves both phases: `phase` is `train` while steps are made. See docs/customization.md.

    Args:
        phase: what it is made for. Raises WiringError for another than `train` and `predict`.
    """

    kind: ClassVar[Kind | Literal["custom"]] = "custom"
    """A kind of the package, whose outputs it then gives: it is evaluated, exported and served as one of these. `custom`: asked through the API only."""

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
        """What it takes in this phase: `{"reader": {name: [shape, dtype]}, "backbone": {...}}`; -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks inputs_attrs: what it takes of reader and backbone.")

    @property
    def outputs_attr(self) -> Attrs:
        """What it gives in this phase: name -> [shape, dtype]; while training `loss` is among them."""
        raise NotImplementedError(f"{type(self).__name__} lacks outputs_attr: what it gives.")

    @property
    def epoch_inputs_attrs(self) -> dict[str, Attrs]:
        """What `epoch_postprocess` takes of the whole data: `{"reader": {name: ...}}`, from the reader's `get_epoch_outputs`."""
        return {}

    def build(self, inputs: Given, scope_name: str = "") -> dict[str, Tensor]:
        """The forward pass: `inputs["reader"][name]` and `inputs["backbone"][name]` -> outputs by name, while training with `loss`."""
        raise NotImplementedError(f"{type(self).__name__} lacks build.")

    def batch_postprocess(self, rt_outputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keeps the outputs of a batch, a record a row. Called while predicting only."""
        rows = min((len(value) for value in rt_outputs.values()), default=0)
        self._results += [
            {name: np.asarray(value[row]).tolist() for name, value in rt_outputs.items()} for row in range(rows)
        ]

    def reset(self) -> None:
        """Forgets what was kept; each `predict` begins with it."""
        self._results = []

    def get_results(self) -> list[dict[str, Any]]:
        """A copy of what was kept."""
        return copy.deepcopy(self._results)

    def epoch_postprocess(
        self, post_inputs: Mapping[str, Mapping[str, Any]] | None = None, output_dir: str | Path | None = None
    ) -> list[Any]:
        """The answers, at the end of the data; with `output_dir` also as JSON lines in `OUTPUT_DIR/PHASE`."""
        if output_dir is not None:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in self._results)
            (folder / self.phase).write_text("".join(lines), encoding="utf-8")
        return self.get_results()
