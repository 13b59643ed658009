"""Model registry: the models that a server holds, their versions and labels, and how one version replaces another.

loaded_model.py      one version in service
versions.py          the versions of one name, their labels, and the version that answers a request
answer_cache.py      answers without a run of the engine: cached answers and shared runs (both off by default)
shadow_traffic.py    mirrors requests of the stable version to a candidate
statistics.py        counts and durations of one model
registry.py          loads bundles with all checks, and takes versions out of service
bundle_opener.py     opens bundles within limits of time
trial.py             tries a bundle in a process of its own
memory_limit.py      limits the memory of a trial or a load
model_directory.py   lists a directory of bundles (names, sizes and times only)
watcher.py           keeps the registry in line with such a directory
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
