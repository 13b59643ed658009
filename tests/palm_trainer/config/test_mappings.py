"""Operations on names and mappings: order, and what is left out."""

from palm_trainer.config.mappings import absent, first_repeated, select_keys


def test_absent_returns_missing_names_in_order() -> None:
    assert absent(["c", "a", "b", "c"], {"a": 1}) == ["c", "b", "c"]
    assert absent([], ["a"]) == []


def test_select_keys_follows_the_keys_and_skips_missing() -> None:
    assert list(select_keys({"a": 1, "b": 2, "c": 3}, ["c", "x", "a"]).items()) == [("c", 3), ("a", 1)]


def test_first_repeated_returns_the_earliest_name() -> None:
    assert first_repeated(["a", "b", "c", "c", "b"]) == "b"
    assert first_repeated(["", "a", ""]) == ""
    assert first_repeated(["a", "b"]) is None
