"""Serving of PALM bundles: raw text in, typed answers out. Importing this package loads nothing heavy.

`palm_serve.Model` answers in this process, without a server. It is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palm_serve.model import Model

__all__ = ["Model"]


def __getattr__(name: str) -> Any:
    """Load `Model` on first use."""
    if name != "Model":
        raise AttributeError(f"module 'palm_serve' has no attribute '{name}'")
    from palm_serve.model import Model

    return Model
