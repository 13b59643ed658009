"""Training of many language tasks on one encoder, and export to one ONNX graph.

`import palm_trainer as palm` is the Python API: `palm.reader`, `palm.backbone`, `palm.head`, `palm.lr_sched`, `palm.optimizer`, `palm.downloader`,
`palm.Trainer` and `palm.MultiHeadTrainer`. Each is loaded when it is first used (PEP 562): importing the package itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palm_trainer.api import backbone, head, lr_sched, optimizer, reader
    from palm_trainer.api.multihead_trainer import MultiHeadTrainer
    from palm_trainer.api.trainer import Trainer
    from palm_trainer.model.download import model_names as downloader

__all__ = ["MultiHeadTrainer", "Trainer", "backbone", "downloader", "head", "lr_sched", "optimizer", "reader"]

_CLASSES = {"Trainer": "trainer", "MultiHeadTrainer": "multihead_trainer"}


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(import_module(f"palm_trainer.api.{_CLASSES[name]}"), name)
    if name == "downloader":
        return import_module("palm_trainer.model.download.model_names")
    if name in __all__:
        return import_module(f"palm_trainer.api.{name}")
    raise AttributeError(f"module 'palm_trainer' has no attribute '{name}'; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
