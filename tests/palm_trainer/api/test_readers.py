"""Readers of the Python API: what they register, give and refuse."""

import json

import numpy as np
import pytest

import palm_trainer as palm
from palm_serve.tokenization import TextTokenizer
from palm_trainer.api.reader.label_maps import read_label_map
from palm_trainer.errors import DataError, WiringError
from palm_trainer.tensors import IGNORE
from palm_trainer.tokenization.vocabulary_files import load_tokenizer

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "paragraphs": [
                {
                    "context": "fly to boston from denver in a b c d monday",
                    "qas": [{"id": "q1", "question": "where to ?", "answers": [{"text": "boston", "answer_start": 7}]}],
                }
            ]
        }
    ],
}


def loaded(reader, path, **options):
    reader.load_data(path, **{"batch_size": 4, **options})
    return reader


def test_special_tokens_and_padding_are_never_trained_whatever_the_last_id_is(vocab_path, tmp_path, files):
    """ATIS' map ends in `B-flight`, which PALM took for "no tag"."""
    reader = loaded(palm.reader.SequenceLabelReader(vocab_path, 32, files.label_map), files.slot(tmp_path, 4))
    target = reader.target("slot", "sequence_label", classes=4)
    assert target.info.labels == ("O", "B-day", "I-day", "B-city", "I-city")
    batch = next(reader.iterate())
    special = (batch["token_ids"] == 2) | (batch["token_ids"] == 3) | (batch["token_ids"] == 0)
    assert (batch["label_ids"][special] == IGNORE).all()
    assert (batch["label_ids"][~special] != IGNORE).all()
    assert (batch["seq_lens"] == (batch["token_ids"] != 0).sum(axis=1)).all()


def test_registers_what_the_backbone_takes(vocab_path, config, tmp_path, files):
    reader = loaded(palm.reader.ClassifyReader(vocab_path, 32), files.intent(tmp_path))
    assert set(next(reader.iterate())) == {"token_ids", "label_ids"}
    bert = palm.backbone.BERT.from_config(config)
    reader.register_with(bert)
    assert reader.get_registered_backbone() is bert
    reader.require_attr("task_ids")
    batch = next(reader.iterate())
    assert set(batch) == {"token_ids", "segment_ids", "input_mask", "task_ids", "label_ids"}
    assert set(reader.clone("predict").outputs_attr) == set(reader.outputs_attr)
    with pytest.raises(WiringError, match=r"ClassifyReader does not give 'seq_lens'\. It gives: token_ids, "):
        reader.require_attr("seq_lens")


@pytest.mark.parametrize("epochs", [None, 3])
def test_every_row_once_an_epoch(vocab_path, tmp_path, files, epochs):
    reader = loaded(palm.reader.ClassifyReader(vocab_path, 32), files.intent(tmp_path, 10), num_epochs=epochs)
    assert [len(b["label_ids"]) for b in reader.iterate()].count(2) == (epochs or 1)
    assert sum(len(b["label_ids"]) for b in reader.iterate()) == 10 * (epochs or 1)


def test_order_of_the_file_on_request(vocab_path, tmp_path, files):
    reader = loaded(
        palm.reader.ClassifyReader(vocab_path, 32), files.intent(tmp_path), shuffle_train=False, batch_size=8
    )
    assert next(reader.iterate())["label_ids"].tolist() == [1, 1, 0, 2] * 2


def test_numbers_are_classes_as_in_palm(vocab_path, tmp_path, files):
    path = files.write(tmp_path / "n.tsv", ["label\ttext_a", *(f"{i}\tfly" for i in (10, 2, 0))])
    reader = loaded(palm.reader.ClassifyReader(vocab_path, 32), path)
    assert reader.target("x", "classify", classes=12).info.labels == tuple(str(i) for i in range(12))
    with pytest.raises(
        WiringError,
        match=r"num_classes must be at least 11, because .*n.tsv holds the label 10, got 10\. Write num_classes=11 or more",
    ):
        reader.target("x", "classify", classes=10)


def test_label_map_fixes_the_classes(vocab_path, tmp_path, files, json_file):
    path = json_file("map.json", {"hotel": 1, "fare": 0, "flight": 2, "meal": 3})
    reader = loaded(palm.reader.ClassifyReader(vocab_path, 32, label_map=path), files.intent(tmp_path))
    assert reader.target("x", "classify", classes=4).info.labels == ("fare", "hotel", "flight", "meal")
    narrow = loaded(
        palm.reader.ClassifyReader(vocab_path, 32, label_map={"fare": 0, "hotel": 1}), files.intent(tmp_path)
    )
    with pytest.raises(DataError, match=r"intent.tsv:2: label 'flight' is not in the label map, which holds 2 labels"):
        narrow.target("x", "classify")
    tagger = loaded(palm.reader.SequenceLabelReader(vocab_path, 32, {"O": 0, "B-city": 1}), files.slot(tmp_path))
    with pytest.raises(DataError, match=r"slot.tsv:4: tag 'B-day' is not in the label map, which holds 2 tags"):
        tagger.target("x", "sequence_label")


@pytest.mark.parametrize("value", [[], {}, {"O": "0"}, {"O": 0, "B-x": 0}])
def test_wrong_label_maps(value, json_file):
    with pytest.raises(DataError, match=r"map.json: (not a label map|two labels have one id)"):
        read_label_map(json_file("map.json", value))
    with pytest.raises(DataError, match="not a label map"):
        read_label_map("nowhere.json")


def test_chinese_texts_lose_their_blanks(vocab_path, tmp_path, files):
    path = files.write(tmp_path / "c.tsv", ["label\ttext_a\ttext_b", "0\ta b c\td a", "1\tb c\ta"])
    reader = loaded(palm.reader.ClassifyReader(vocab_path, 32, lang="cn"), path)
    assert [(e.text, e.pair) for e in reader.examples] == [("abc", "da"), ("bc", "a")]


def test_blanks_in_the_place_of_0x02_are_an_error(vocab_path, tmp_path, files):
    path = files.write(tmp_path / "s.tsv", ["text_a\tlabel", "fly to boston\tO O B-city"])
    with pytest.raises(DataError, match=r"s.tsv:2: tags are joined by blanks"):
        loaded(palm.reader.SequenceLabelReader(vocab_path, 32, files.label_map), path)


def test_passages_are_read_in_windows(vocab_path, json_file):
    reader = loaded(palm.reader.MRCReader(vocab_path, 12, 4, 3), json_file("squad.json", SQUAD), batch_size=8)
    batch = next(reader.iterate())
    assert reader.num_examples == len(batch["token_ids"]) > 1
    rows = [row for row in range(len(batch["token_ids"])) if batch["start_positions"][row] > 0]
    boston = [line.strip() for line in vocab_path.read_text().splitlines()].index("boston")
    assert rows
    assert all(batch["token_ids"][row, batch["start_positions"][row]] == boston for row in rows)
    with pytest.warns(UserWarning, match="remove_noanswer has no effect"):
        palm.reader.MRCReader(vocab_path, 12, 4, 3, remove_noanswer=True)
    with pytest.raises(WiringError, match="max_query_len must be from 1 to half of max_len=12, got 10"):
        palm.reader.MRCReader(vocab_path, 12, 10, 3)


def test_masks_anew_in_each_epoch(vocab_path, tmp_path, files):
    path = files.write(tmp_path / "t.txt", ["fly to boston from new york in monday"] * 4)
    reader = loaded(palm.reader.MaskLMReader(vocab_path, 32, seed=1), path, file_format="text", num_epochs=2)
    first, second = reader.iterate()
    assert not np.array_equal(first["mask_pos"], second["mask_pos"])
    whole = loaded(palm.reader.ClassifyReader(vocab_path, 32, phase="predict"), path, file_format="text")
    tokens = next(whole.iterate())["token_ids"].ravel()
    assert tokens[first["mask_pos"]].tolist() == first["mask_label"].tolist()


def test_ranker_reads_each_pair_with_its_negative(vocab_path, tmp_path, files):
    path = files.write(tmp_path / "r.tsv", ["text_a\ttext_b\ttext_b_neg", *["fly to boston\tfly\thotel"] * 4])
    reader = loaded(palm.reader.MatchReader(vocab_path, 32, learning_strategy="pairwise"), path)
    assert reader.target("m", "match", learning_strategy="pairwise").info.labels == ()
    with pytest.raises(WiringError, match="its head learns 'pointwise', but its MatchReader reads 'pairwise'"):
        reader.target("m", "match", learning_strategy="pointwise")


def test_vocabularies(vocab_path, tmp_path):
    cased = tmp_path / "cased.txt"
    cased.write_text(vocab_path.read_text() + "Boston\n", encoding="utf-8")
    lower, upper = (TextTokenizer(load_tokenizer(path), 9) for path in (vocab_path, cased))
    assert lower.encode("BOSTON").input_ids == lower.encode("boston").input_ids
    assert upper.encode("Boston").input_ids != upper.encode("boston").input_ids
    numbered = tmp_path / "numbered.txt"
    numbered.write_text(
        "".join(f"{t}\t{i}\n" for i, t in enumerate(vocab_path.read_text().splitlines())), encoding="utf-8"
    )
    assert load_tokenizer(numbered) == load_tokenizer(vocab_path)
    (tmp_path / "tokenizer.json").write_text(load_tokenizer(vocab_path), encoding="utf-8")
    assert load_tokenizer(tmp_path) == load_tokenizer(vocab_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", r"lacks \[PAD\], \[UNK\]"),
        ("a\tx\n", "v.txt:1: 'x' is no id"),
        (None, "cannot be read as a vocabulary"),
    ],
)
def test_wrong_vocabularies(tmp_path, content, message):
    path = tmp_path / "v.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_tokenizer(path)


def test_wrong_tokenizer_files(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither vocab.txt nor tokenizer.json there"):
        load_tokenizer(tmp_path / "empty")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phase": "test"}, "phase must be 'train' or 'predict', got 'test'"),
        ({"lang": "fr"}, "lang must be one of .*, got 'fr'"),
        ({"tokenizer": "bpe"}, "tokenizer must be one of wordpiece, got 'bpe'"),
        ({"max_len": 2}, "max_len must be from 3 to 8192, got 2"),
        ({"max_len": 10**9}, "max_len must be from 3 to 8192, got"),
    ],
)
def test_wrong_settings(vocab_path, settings, message):
    with pytest.raises(WiringError, match=message):
        palm.reader.ClassifyReader(vocab_path, **{"max_len": 32, **settings})


def test_wrong_data(vocab_path, tmp_path, files):
    reader = palm.reader.ClassifyReader(vocab_path, 32)
    with pytest.raises(DataError, match=r"file_format must be one of .*, got 'xml'"):
        reader.load_data(files.intent(tmp_path), 4, file_format="xml")
    with pytest.raises(DataError, match="batch_size must be from 1 to 1,000,000, got 0"):
        reader.load_data(files.intent(tmp_path), 0)
    with pytest.raises(WiringError, match=r"has no data yet\. Call load_data"):
        reader.dataset({}, ())
    with pytest.warns(UserWarning, match="do_lower_case must be None or True.*Texts are lower-cased"):
        cased = palm.reader.ClassifyReader(vocab_path, 32, do_lower_case=False)
    assert cased.tokenizer_json == reader.tokenizer_json
