"""What a directory of bundles holds."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import BundleError
from palm_serve.registry.model_directory import ABSENT, list_model, list_models, read_entry, read_traffic, stable_label
from palm_serve.registry.versions import TrafficShares


def bundle(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return path


def test_list_models_reads_both_layouts_and_ignores_others(tmp_path: Path) -> None:
    bundle(tmp_path / "plain")
    bundle(tmp_path / "faq" / "stable")
    bundle(tmp_path / "faq" / "v2")
    bundle(tmp_path / "faq" / ".v3")
    bundle(tmp_path / ".plain.export-1")
    (tmp_path / "faq" / "half").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "README").write_text("not a bundle")
    listings = list_models(tmp_path).models
    assert listings["README"].is_file
    assert {name: sorted(listing.entries) for name, listing in listings.items() if not listing.is_file} == {
        "plain": ["stable"],
        "faq": ["half", "stable", "v2"],
        "empty": [],
    }
    assert [entry.complete for entry in listings["faq"].entries.values()] == [False, True, True]
    assert listings["empty"] != ABSENT
    with pytest.raises(OSError, match="absent"):
        list_models(tmp_path / "absent")


def test_read_entry_of_a_link_resolves_the_bundle(tmp_path: Path) -> None:
    first, second = bundle(tmp_path / "store" / "1"), bundle(tmp_path / "store" / "2")
    link = tmp_path / "models" / "faq" / "stable"
    link.parent.mkdir(parents=True)
    link.symlink_to(first)
    before = list_model(link.parent).entries["stable"]
    assert before.path == first
    new = link.with_name(".new")
    new.symlink_to(second)
    new.replace(link)
    after = list_model(link.parent).entries["stable"]
    assert after.path == second
    assert after.signature != before.signature


def test_signature_changes_with_every_file(tmp_path: Path) -> None:
    path = bundle(tmp_path / "b")
    (path / "variants").mkdir()
    graph = path / "variants" / "fused.onnx"
    graph.write_bytes(b"1234")
    before = read_entry(path).signature
    assert read_entry(path).signature == before
    os.utime(graph, ns=(1, 1))
    touched = read_entry(path).signature
    graph.write_bytes(b"12345")
    os.utime(graph, ns=(1, 1))
    longer = read_entry(path).signature
    graph.unlink()
    assert len({before, touched, longer, read_entry(path).signature}) == 4


@pytest.mark.parametrize(
    ("labels", "stable"),
    [
        (["canary", "stable", "v9"], "stable"),
        (["v10", "v9", "canary"], "v10"),
        (["1", "2", "10"], "10"),
        (["2026-11-09", "2026-11-22"], "2026-11-22"),
        (["canary", "shadow"], None),
        ([], None),
    ],
)
def test_stable_label_is_stable_or_the_highest(labels: list[str], stable: str | None) -> None:
    assert stable_label(labels) == stable


@given(st.lists(st.text("v19.", min_size=1), min_size=1))
def test_stable_label_of_any_labels_is_one_of_them(labels: list[str]) -> None:
    assert stable_label(labels) == stable_label(sorted(labels))
    assert stable_label(labels) in labels


def test_read_traffic_returns_the_shares(tmp_path: Path) -> None:
    file = tmp_path / "traffic.toml"
    file.write_text("canary = 0.25\nshadow = 1\n")
    assert read_traffic(file) == TrafficShares(0.25, 1.0)
    file.write_text("")
    assert read_traffic(file) == TrafficShares()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("canary = 10", "canary must be a number from 0 to 1, got 10"),
        ("canary = true", "canary must be a number from 0 to 1, got True"),
        ("canary = '10%'", "canary must be a number from 0 to 1, got '10%'"),
        ("stable = 0.1", "unknown key 'stable'; shares are for canary and shadow"),
        ("canary 0.1", "traffic.toml must be TOML"),
    ],
)
def test_read_traffic_of_invalid_shares_raises(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "traffic.toml"
    file.write_text(text)
    with pytest.raises(BundleError, match=match):
        read_traffic(file)
