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


def family(*versions: Version, **labels: Version) -> ModelVersions:
    made = ModelVersions("m", TrafficShares(canary=0.3))
    made.versions.extend(versions)  # type: ignore[arg-type]
    made.relabel(labels)  # type: ignore[arg-type]
    return made


A, B, C = (Version(letter * 64) for letter in "abc")


def test_shares_are_kept() -> None:
    for share in (0.01, 0.1, 0.5):
        hits = sum(falls_in(share, "m", f"session {i}") for i in range(20_000))
        assert hits / 20_000 == pytest.approx(share, rel=0.15)
    assert not any(falls_in(0, "m", str(i)) for i in range(100))
    assert all(falls_in(1, "m", str(i)) for i in range(100))


@given(st.text(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_who_is_in_a_share_is_in_every_larger_one(name: str, key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert falls_in(small, name, key) <= falls_in(large, name, key)


def test_models_do_not_share_their_samples() -> None:
    both = sum(falls_in(0.5, "a", str(i)) and falls_in(0.5, "b", str(i)) for i in range(4_000))
    assert both / 4_000 == pytest.approx(0.25, abs=0.03)


def test_routing() -> None:
    versions = family(A, B, stable=A, canary=B)
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


def test_labels_move_at_once() -> None:
    versions = family(A, B, stable=A, canary=B)
    assert (A.labels, B.labels) == (("stable",), ("canary",))
    versions.relabel({STABLE: B, "v2": B})
    assert (A.labels, B.labels) == ((), ("stable", "v2"))
    with pytest.raises(NotFound, match=r"version 'canary' of 'm' is not loaded; loaded: a{12} \(no label\), b{12} \("):
        versions.find(CANARY)


def test_the_stable_version_goes() -> None:
    versions = family(A, B, C, stable=A, canary=C)
    versions.remove(A)
    assert versions.find() is B, "C is only being tried"
    versions.remove(B)
    assert versions.find() is C
