"""The models that a server holds: their versions, what labels mean, and how one takes the place of another.

model.py       one version in service
family.py      the versions of one name: labels, and which of them a request goes to
registry.py    loading with all its checks, taking out of service
"""

from palm_serve.registry.family import CANARY, SHADOW, STABLE, Traffic
from palm_serve.registry.model import LoadedModel
from palm_serve.registry.registry import LoadFailure, Registry

__all__ = ["CANARY", "SHADOW", "STABLE", "LoadFailure", "LoadedModel", "Registry", "Traffic"]
