"""Which version a request goes to."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import NotFound
from palm_serve.registry.versions import CANARY, STABLE, ModelVersions, TrafficShares, falls_in


@dataclass(eq=False)
class Version:
    """As much of a LoadedModel as labels need."""

    version: str
    labels: tuple[str, ...] = ()
    ready: bool = True
    mirror: object = field(default=None)


def make_versions(*versions: Version, **labels: Version) -> ModelVersions:
    model_versions = ModelVersions("m", TrafficShares(canary=0.3))
    model_versions.versions.extend(versions)  # type: ignore[arg-type]
    model_versions.relabel(labels)  # type: ignore[arg-type]
    return model_versions


A, B, C = (Version(letter * 64) for letter in "abc")


def test_falls_in_keeps_the_share() -> None:
    for share in (0.01, 0.1, 0.5):
        hits = sum(falls_in(share, "m", f"session {i}") for i in range(20_000))
        assert hits / 20_000 == pytest.approx(share, rel=0.15)
    assert not any(falls_in(0, "m", str(i)) for i in range(100))
    assert all(falls_in(1, "m", str(i)) for i in range(100))


@given(st.text(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_falls_in_stays_true_for_larger_shares(name: str, key: str, first: float, second: float) -> None:
    small, large = sorted((first, second))
    assert falls_in(small, name, key) <= falls_in(large, name, key)


def test_falls_in_is_independent_between_models() -> None:
    both = sum(falls_in(0.5, "a", str(i)) and falls_in(0.5, "b", str(i)) for i in range(4_000))
    assert both / 4_000 == pytest.approx(0.25, abs=0.03)


def test_route_sends_the_canary_its_share() -> None:
    versions = make_versions(A, B, stable=A, canary=B)
    answered = [versions.route(str(i)) for i in range(1_000)]
    assert answered == [versions.route(str(i)) for i in range(1_000)]
    assert answered.count(B) / 1_000 == pytest.approx(0.3, abs=0.05)
    try:
        B.ready = False
        assert {versions.route(str(i)) for i in range(1_000)} == {A}, "a canary that does not work gets nothing"
    finally:
        B.ready = True
    assert versions.find() is versions.find(STABLE) is A
    assert versions.find(CANARY) is B


def test_relabel_moves_all_labels_at_once() -> None:
    versions = make_versions(A, B, stable=A, canary=B)
    assert (A.labels, B.labels) == (("stable",), ("canary",))
    versions.relabel({STABLE: B, "v2": B})
    assert (A.labels, B.labels) == ((), ("stable", "v2"))
    with pytest.raises(NotFound, match=r"version 'canary' of 'm' is not loaded; loaded: a{12} \(no label\), b{12} \("):
        versions.find(CANARY)


def test_remove_of_the_stable_version_moves_the_label() -> None:
    versions = make_versions(A, B, C, stable=A, canary=C)
    versions.remove(A)
    assert versions.find() is B, "C is only being tried"
    versions.remove(B)
    assert versions.find() is C
