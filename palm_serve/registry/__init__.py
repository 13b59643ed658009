"""The models that a server holds: their versions, what labels mean, and how one takes the place of another.

model.py       one version in service
family.py      the versions of one name: labels, and which of them a request goes to
answers.py     what a version answers without a run: answers kept, runs shared (both off by default)
shadow.py      what the stable version is asked, asked of a candidate too
registry.py    loading with all its checks, taking out of service
folder.py      what a directory of bundles holds (reads names, sizes and times only)
watch.py       keeps a registry at what such a directory holds
"""

from palm_serve.registry.answer_cache import AnswerCache
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.registry import LoadFailure, Registry
from palm_serve.registry.versions import CANARY, SHADOW, STABLE, TrafficShares
from palm_serve.registry.watcher import Watcher

__all__ = [
    "CANARY",
    "SHADOW",
    "STABLE",
    "AnswerCache",
    "LoadFailure",
    "LoadedModel",
    "Registry",
    "TrafficShares",
    "Watcher",
]
