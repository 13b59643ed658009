"""The services of a server on Ray Serve: `serve run palm_serve.ray:app bundle=DIR replicas=4`. Needs the extra `ray`."""

from typing import Any

from palm_serve.ray.methods import add_services

__all__ = ["add_services", "app"]


def __getattr__(name: str) -> Any:
    # On first use, so that a proxy of Ray, and a test without Ray, import what they need.
    if name == "app":
        from palm_serve.ray.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
