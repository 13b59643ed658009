import pytest

from palm_trainer.config.schema import FORMAT_OPTIONS, data_config
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.splits import CONTRADICTED, REPEATED, read_split
from palm_trainer.errors import DataError


def test_read_split_keeps_order_and_notes_repeats(tmp_path):
    first, second = tmp_path / "1.tsv", tmp_path / "2.tsv"
    first.write_text("text\tlabel\na\tx\nb\tx\na\tx\n")
    second.write_text("text\tlabel\nb\ty\nc\tz\n")
    split = read_split(data_config({"format": "tsv", "train": (first,), "dev": (first, second)}), "dev")
    assert [example.text for example in split.examples] == ["a", "b", "a", "b", "c"]
    assert [(d.kind, d.count, d.first) for d in split.defects] == [
        (REPEATED, 1, f"{first}:4"),
        (CONTRADICTED, 1, f"{second}:2"),
    ]


def test_read_split_missing_or_empty_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n{}\n".replace("{}", ""))
    data = data_config({"format": "jsonl", "train": (path,)})
    with pytest.raises(DataError, match=r"no 'test' files; add `test = \.\.\.` to its table"):
        read_split(data, "test")
    with pytest.raises(DataError, match="an empty file"):
        read_split(data, "train")


def test_file_of_values_alone_stands_beside_one_with_examples(tmp_path):
    values, rows = tmp_path / "values.jsonl", tmp_path / "rows.jsonl"
    values.write_text('{"values": {"room": {"living room": ["lounge"]}}}\n')
    rows.write_text('{"text": "light in the lounge", "slots": [{"start": 13, "end": 19, "label": "room"}]}\n')
    for paths in ((values, rows), (rows, values), (rows, values, values)):
        split = read_split(data_config({"format": "jsonl", "train": paths}), "train")
        assert [example.text for example in split.examples] == ["light in the lounge"]
        assert split.values
    data = data_config({"format": "jsonl", "train": (values,)})
    with pytest.raises(DataError, match=r"values\.jsonl: no example in it, only values; name a file with examples"):
        read_split(data, "train")


def test_config_formats_agree_with_parsers():
    assert set(FORMATS) == set(FORMAT_OPTIONS)
