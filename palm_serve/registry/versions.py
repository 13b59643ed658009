"""The versions of one name, what its labels mean, and which version a request goes to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from palm_serve.errors import NotFound
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.shadow_traffic import ShadowTraffic

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
"""What a request without a version means; who gets a share of those requests; who is asked a share of them besides, unheard."""

SHORTEST_PREFIX = 8
"""Characters of a digest that name a version."""


@dataclass(frozen=True, slots=True)
class TrafficShares:
    """Shares, 0 to 1, of the requests that name no version."""

    canary: float = 0.0
    """Answered by the canary."""
    shadow: float = 0.0
    """Of what the stable version answers: asked of the shadow too, where the engine is idle."""


def falls_in(share: float, name: str, key: str) -> bool:
    """Whether a request is among the `share` of a model's requests: always the same for the same key, and still so for a larger share."""
    if share <= 0.0:
        return False
    digest = hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


class ModelVersions:
    """One name's versions in service, in the order of loading."""

    def __init__(self, name: str, traffic: TrafficShares) -> None:
        self.name = name
        self.traffic = traffic
        self.versions: list[LoadedModel] = []
        self._labels: dict[str, LoadedModel] = {}

    @property
    def labels(self) -> Mapping[str, LoadedModel]:
        """What each label means."""
        return self._labels

    def remove(self, model: LoadedModel) -> None:
        """Forgets a version. Where it was the stable one, that which was loaded last becomes it, but neither canary nor shadow if there are others."""
        self.versions.remove(model)
        labels = {label: version for label, version in self._labels.items() if version is not model}
        if STABLE not in labels and self.versions:
            tried = [version for version in self.versions if not {CANARY, SHADOW} & {*version.labels}]
            labels[STABLE] = (tried or self.versions)[-1]
        self.relabel(labels)

    def relabel(self, labels: Mapping[str, LoadedModel]) -> None:
        """From now on there are these labels and no others."""
        self._labels = dict(labels)
        for version in self.versions:
            version.labels = tuple(label for label, meant in self._labels.items() if meant is version)

    def show_shadow(self) -> None:
        """Lets the shadow see what the stable version answers, and nothing else."""
        candidate, stable, share = self._labels.get(SHADOW), self._labels.get(STABLE), self.traffic.shadow
        mirrored = candidate is not None and candidate is not stable and share > 0
        for model in self.versions:
            if candidate is None or not mirrored or model is not stable:
                model.mirror = None
            elif not isinstance(model.mirror, ShadowTraffic) or model.mirror.of != (candidate, share):
                model.mirror = ShadowTraffic(candidate, share)

    def find(self, version: str = "") -> LoadedModel:
        """The version that a label, a digest, or an unambiguous beginning of one (8 characters or more) names; empty: the label "stable".

        Raises NotFound, which lists what there is.
        """
        wanted = version or STABLE
        if wanted in self._labels:
            return self._labels[wanted]
        found = [model for model in self.versions if model.version == wanted]
        if not found and len(wanted) >= SHORTEST_PREFIX:
            found = [model for model in self.versions if model.version.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        what = "is ambiguous" if found else "is not loaded"
        have = ", ".join(f"{model.version[:12]} ({', '.join(model.labels) or 'no label'})" for model in self.versions)
        raise NotFound(f"version '{wanted}' of '{self.name}' {what}; loaded: {have}")

    def route(self, key: str) -> LoadedModel:
        """The version for a request that names none. The canary's share goes to the stable version while the canary does not work."""
        canary = self._labels.get(CANARY)
        if canary is not None and canary.ready and falls_in(self.traffic.canary, self.name, key):
            return canary
        return self.find()
