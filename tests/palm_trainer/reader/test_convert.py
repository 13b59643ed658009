import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.errors import DataError
from palm_trainer.reader.convert import PAIR_LOST, ROLES_LOST, TEXT_CHANGED, convert
from palm_trainer.reader.formats import FORMATS
from palm_trainer.reader.formats.source import Defects, FormatOptions
from palm_trainer.reader.formats.write import WRITERS


def read(name, path, options=None):
    return list(FORMATS[name](path, options or FormatOptions(), Defects()))


def plain(example):
    return (example.text, example.pair, dict(example.fields))


@pytest.fixture
def joint(tmp_path):
    folder = tmp_path / "joint"
    folder.mkdir()
    (folder / "seq.in").write_text("fly  to new york\nplay it\n")
    (folder / "seq.out").write_text("O O B-city I-city\nO O\n")
    (folder / "label").write_text("flight\nmusic\n")
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.conll", "a", "a.tsv"])
def test_joint_data_survives_every_format_that_can_hold_it(joint, tmp_path, name):
    result = convert(joint, tmp_path / "out" / name)
    assert result.count == 2
    assert result.losses == []
    copies = read(result.target_format, tmp_path / "out" / name, result.options)
    assert [plain(e) for e in copies] == [plain(e) for e in read("joint", joint)]
    assert [e.words for e in copies] == [e.words for e in read("joint", joint)]


def test_the_tables_of_palm(joint, tmp_path):
    slots = convert(joint, tmp_path / "slot.tsv", field="slots")
    assert (tmp_path / "slot.tsv").read_text() == (
        "text_a\tlabel\nfly\x02to\x02new\x02york\tO\x02O\x02B-city\x02I-city\nplay\x02it\tO\x02O\n"
    )
    assert [loss.kind for loss in slots.losses] == ["field 'intent': left out or under another name"]
    convert(joint, tmp_path / "intent.tsv", field="intent")
    assert (tmp_path / "intent.tsv").read_text() == "label\ttext_a\nflight\tfly to new york\nmusic\tplay it\n"


def test_losses_are_told(tmp_path):
    rows = [
        {"text": "from rome!", "intent": "fly", "slots": [{"start": 5, "end": 9, "label": "city", "role": "from"}]},
        {"text": "b\tc", "text_pair": "d", "intent": "x"},
    ]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    result = convert(source, tmp_path / "joint")
    assert {(loss.kind, loss.count, loss.first) for loss in result.losses} == {
        (TEXT_CHANGED, 2, f"{source}:1"),
        (ROLES_LOST, 1, f"{source}:1"),
        (PAIR_LOST, 1, f"{source}:2"),
        ("field 'slots': made up, the source has none here under this name", 1, f"{source}:2"),
    }
    assert (tmp_path / "joint" / "seq.in").read_text() == "from rome !\nb c\n"
    assert convert(source, tmp_path / "b.jsonl").losses == []


def test_characters_are_written_without_blanks(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("# intent: a\n北\tB-city\n京\tI-city\n\n# intent: b\n好\tO\n \tO\n好\tO\n")
    result = convert(source, tmp_path / "b.tsv")
    assert (result.source_format, result.target_format, result.options.joiner) == ("conll", "palm", "")
    assert result.losses == []
    result = convert(source, tmp_path / "joint")
    assert [(loss.kind, loss.count, loss.first) for loss in result.losses] == [(TEXT_CHANGED, 1, f"{source}:6")]
    assert (tmp_path / "joint" / "seq.in").read_text() == "北 京\n好 好\n"


def test_several_classes(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a", "intent": ["x", "y"]}\n{"text": "b", "intent": ["z"]}\n')
    for name in ("b.tsv", "b.conll", "b"):
        result = convert(source, tmp_path / name)
        assert [loss.kind for loss in result.losses if "slots" not in loss.kind] == []
        assert read(result.target_format, tmp_path / name, result.options)[0].fields["intent"] == ("x", "y")


def test_answers_are_kept_in_jsonl_only(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a?", "text_pair": "b c", "answer": [{"start": 0, "end": 1}]}\n')
    assert convert(source, tmp_path / "b.jsonl").losses == []
    result = convert(source, tmp_path / "b.tsv")
    assert result.target_format == "tsv"
    assert [loss.kind for loss in result.losses] == ["field 'answer': left out or under another name"]


def test_faults(joint, tmp_path):
    with pytest.raises(DataError, match="exists; remove it"):
        convert(joint, joint)
    with pytest.raises(DataError, match=r"suffix '\.xml' tells no format \(\.jsonl, \.conll, \.tsv, none for joint\)"):
        convert(joint, tmp_path / "a.xml")
    with pytest.raises(DataError, match="format 'rasa' cannot be written; choose one of jsonl, joint"):
        convert(joint, tmp_path / "a.yml", target_format="rasa")
    with pytest.raises(DataError, match="unknown format 'jiont'; known: joint"):
        convert(joint, tmp_path / "a.jsonl", source_format="jiont")
    with pytest.raises(DataError, match="no field 'slot'; known: intent, slots"):
        convert(joint, tmp_path / "a.tsv", field="slot")
    source = tmp_path / "a.txt"
    source.write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"a\.txt:1: no class, but format 'joint' has one in each line"):
        convert(source, tmp_path / "joint2")
    assert not (tmp_path / "joint2").exists()
    source.write_text('{"text": "a"}\n{"text": "a", "text_pair": "b"}\n')
    with pytest.raises(DataError, match=r"a\.txt:1: no second text, which other examples have"):
        convert(source, tmp_path / "c.tsv")


TEXT = st.text(st.sampled_from("ab \t\u3000北\u0301😀\n#\"'"), min_size=1).filter(str.strip)
NAME = st.text(st.sampled_from("ab-_. #"), min_size=1).map(str.strip).filter(bool)


@st.composite
def rows(draw):
    text = draw(TEXT)
    row = {"text": text}
    if draw(st.booleans()):
        row["text_pair"] = draw(TEXT)
    if draw(st.booleans()):
        row["intent"] = draw(st.one_of(NAME, st.lists(NAME, unique=True, max_size=2)))
    bounds = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    if draw(st.booleans()):
        pairs = zip(bounds[::2], bounds[1::2], strict=False)
        row["slots"] = [{"start": s, "end": e, "label": draw(NAME)} for s, e in pairs]
    return row


@given(data=st.lists(rows(), min_size=1, max_size=4), target=st.sampled_from(sorted(WRITERS)))
def test_what_is_not_reported_lost_reads_back_equal(tmp_path_factory, data, target):
    folder = tmp_path_factory.mktemp("convert")
    source = folder / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in data))
    try:
        result = convert(source, folder / "out", target_format=target)
    except DataError:
        assert target in ("joint", "tsv")
        return
    copies = read(target, folder / "out", result.options)
    assert len(copies) == len(data) == result.count
    if not result.losses:
        assert [plain(e) for e in copies] == [plain(e) for e in read("jsonl", source)]
    if target == "jsonl":
        assert not result.losses
