"""Label names in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.data.label_names import check_names, label_text, spell_out
from palm_trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("book_flight", "book flight"),
        ("BookFlight", "book flight"),
        ("add-to-playlist", "add to playlist"),
        ("HTTPServer2Go", "HTTP server 2 go"),
        ("ATM_support", "ATM support"),
        ("top10", "top 10"),
        ("atis_flight#atis_airfare", "atis flight atis airfare"),
        ("don't_know", "don't know"),
        ("订机票", "订机票"),
        ("订机票2", "订机票 2"),
        ("हिन्दी_नाम", "हिन्दी नाम"),
        ("A", "a"),
        ("???", ""),
        ("__", ""),
        ("😀", ""),
        ("", ""),
    ],
)
def test_spell_out(label, words):
    assert spell_out(label) == words


@given(st.text())
def test_spell_out_keeps_letters_and_is_stable(label):
    words = spell_out(label)
    assert words == " ".join(words.split())
    assert (words == "") == (not any(map(str.isalnum, label)))


def test_label_text_prefers_the_names():
    assert label_text("book_flight", {"book_flight": "Reserve a seat"}) == "Reserve a seat"
    assert label_text("book_flight", {"other": "x"}) == "book flight"


@pytest.mark.parametrize(
    ("names", "names_only", "message"),
    [
        ({"a": "?!"}, False, "tasks.t.names.a must be words with a letter or digit, got '?!'. "),
        (
            {"new": "a new one"},
            False,
            "tasks.t.names must be of labels that a training text has, got 'new'. "
            "Add texts of it, set tasks.t.names_only = true, or remove it.",
        ),
        (
            {"x": "Pay_bill", "y": "pay bill"},
            True,
            "tasks.t.names must differ for classes without texts, got 'pay bill' for 'x' and 'y'. ",
        ),
    ],
)
def test_check_names_refuses(names, names_only, message):
    with pytest.raises(ConfigError) as refused:
        check_names("tasks.t", names, {"a", "b"}, names_only=names_only)
    assert message in str(refused.value)


def test_check_names_allows_the_words_of_a_class_with_texts():
    check_names("tasks.t", {"a": "pay", "b": "pay", "new": "pay"}, {"a", "b"}, names_only=True)
