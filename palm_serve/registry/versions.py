"""Versions of one model name: their labels, and the version that answers a request."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from palm_serve.errors import NotFound
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.shadow_traffic import ShadowTraffic

STABLE = "stable"
"""Label of the version that answers requests without a version."""
CANARY = "canary"
"""Label of the version that answers a share of the requests without a version."""
SHADOW = "shadow"
"""Label of the version that a share of the requests is mirrored to. Its answers are compared, never returned."""

SHORTEST_PREFIX = 8
"""Fewest characters of a digest that name a version."""


@dataclass(frozen=True, slots=True)
class TrafficShares:
    """Shares of the requests that name no version, 0 to 1."""

    canary: float = 0.0
    """Share that the canary answers."""
    shadow: float = 0.0
    """Share of the stable version's requests that is mirrored to the shadow while the engine is idle."""


def falls_in(traffic_share: float, name: str, key: str) -> bool:
    """Return True for the given share of the keys.

    The result is always the same for the same key, and stays True for a larger share.

    Args:
        traffic_share: share of the requests, 0 to 1.
        name: name of the model.
        key: identifies the client or its session.
    """
    if traffic_share <= 0.0:
        return False
    digest = hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < traffic_share * 2**64


class ModelVersions:
    """Versions of one name in service, in the order of loading."""

    def __init__(self, name: str, traffic: TrafficShares) -> None:
        self.name = name
        self.traffic = traffic
        self.versions: list[LoadedModel] = []
        self._labels: dict[str, LoadedModel] = {}

    @property
    def labels(self) -> Mapping[str, LoadedModel]:
        """Version of each label."""
        return self._labels

    def remove(self, model: LoadedModel) -> None:
        """Remove a version.

        If it was the stable one, the version that was loaded last becomes stable. Canary and shadow do so only if there
        is no other version.
        """
        self.versions.remove(model)
        labels = {}
        for label, version in self._labels.items():
            if version is not model:
                labels[label] = version
        if STABLE not in labels and self.versions:
            labels[STABLE] = self.versions[-1]
            for version in reversed(self.versions):
                if CANARY not in version.labels and SHADOW not in version.labels:
                    labels[STABLE] = version
                    break
        self.relabel(labels)

    def relabel(self, labels: Mapping[str, LoadedModel]) -> None:
        """Replace all labels."""
        self._labels = dict(labels)
        for version in self.versions:
            version.labels = self._labels_of(version)

    def _labels_of(self, model: LoadedModel) -> tuple[str, ...]:
        labels = []
        for label, version in self._labels.items():
            if version is model:
                labels.append(label)
        return tuple(labels)

    def update_mirrors(self) -> None:
        """Mirror the requests of the stable version to the shadow, and those of no other version."""
        candidate = self._labels.get(SHADOW)
        stable = self._labels.get(STABLE)
        shadow_share = self.traffic.shadow
        for model in self.versions:
            if candidate is None or candidate is stable or shadow_share <= 0 or model is not stable:
                model.mirror = None
            elif not isinstance(model.mirror, ShadowTraffic) or not model.mirror.mirrors_to(candidate, shadow_share):
                model.mirror = ShadowTraffic(candidate, shadow_share)

    def find(self, version: str = "") -> LoadedModel:
        """Return the version with this label or digest.

        Args:
            version: a label, a digest, or an unambiguous prefix of one (8 characters or more). Empty: the stable version.

        Raises:
            NotFound: no version matches, or several do. The message lists the versions in service.
        """
        version = version or STABLE
        if version in self._labels:
            return self._labels[version]
        matches = [model for model in self.versions if model.version == version]
        if not matches and len(version) >= SHORTEST_PREFIX:
            matches = [model for model in self.versions if model.version.startswith(version)]
        if len(matches) == 1:
            return matches[0]
        problem = "is ambiguous" if matches else "is not loaded"
        loaded_versions = []
        for model in self.versions:
            labels = ", ".join(model.labels) or "no label"
            loaded_versions.append(f"{model.version[:12]} ({labels})")
        loaded = ", ".join(loaded_versions)
        raise NotFound(f"version '{version}' of '{self.name}' {problem}; loaded: {loaded}")

    def route(self, key: str) -> LoadedModel:
        """Return the version for a request that names none.

        While the canary does not work, its share goes to the stable version.
        """
        canary = self._labels.get(CANARY)
        if canary is not None and canary.ready and falls_in(self.traffic.canary, self.name, key):
            return canary
        return self.find()
