"""Splits: nothing is lost, nothing is in two places, and what is tested on never reaches training."""

import json
from collections import Counter

import pytest

ARTICLES = [f"Article {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def splits():
    import splits

    return splits


@pytest.fixture
def xquad(tmp_path):
    """26 articles of two passages; the last has one."""
    articles = []
    for title in ARTICLES:
        paragraphs = [
            {
                "context": f"{title} stands here. It has part {number}.",
                "qas": [{"id": f"{title}{number}", "question": f"What has\n{title}?", "answers": []}],
            }
            for number in range(1 if title.endswith("z") else 2)
        ]
        articles.append({"title": title, "paragraphs": paragraphs})
    path = tmp_path / "xquad.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return path


def titles(path):
    return [article["title"] for article in json.loads(path.read_text(encoding="utf-8"))["data"]]


def test_each_article_is_tested_once_and_never_trained_then(splits, xquad, tmp_path):
    tested = Counter()
    for fold in range(splits.FOLDS):
        splits.split_xquad(xquad, tmp_path / str(fold), fold)
        train, dev, test = (titles(tmp_path / str(fold) / f"{name}.json") for name in ("train", "dev", "test"))
        assert sorted([*train, *dev, *test]) == ARTICLES
        assert min(map(len, (train, dev, test))) >= 3
        tested.update(test)
        for auxiliary in ("sentences.txt", "match.tsv"):
            text = (tmp_path / str(fold) / auxiliary).read_text(encoding="utf-8")
            assert all(title in text for title in train)
            assert not any(title in text for title in (*dev, *test))
    assert tested == dict.fromkeys(ARTICLES, 1)


def test_folds_do_not_depend_on_the_files_order(splits, xquad, tmp_path):
    splits.split_xquad(xquad, tmp_path / "one", 2)
    squad = json.loads(xquad.read_text(encoding="utf-8"))
    xquad.write_text(json.dumps({**squad, "data": squad["data"][::-1]}), encoding="utf-8")
    splits.split_xquad(xquad, tmp_path / "other", 2)
    assert titles(tmp_path / "one/test.json") == titles(tmp_path / "other/test.json")


def test_pairs_are_read_as_pairs(splits, xquad, tmp_path):
    """A row a line, whatever line breaks the text has; a wrong passage only where the article has another."""
    splits.split_xquad(xquad, tmp_path / "0", 0)
    header, *rows = (tmp_path / "0/match.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "label\ttext_a\ttext_b"
    questions = sum(1 if title.endswith("z") else 2 for title in titles(tmp_path / "0/train.json"))
    labels = Counter(row.split("\t")[0] for row in rows)
    assert all(row.count("\t") == 2 for row in rows)
    assert labels["1"] == questions
    assert labels["0"] == questions - ("Article z" in titles(tmp_path / "0/train.json"))


def test_mrpc_keeps_every_row_and_its_header(splits, tmp_path):
    rows = [f'1\t{i}\t{i + 1}\tsaid "no\tsaid it' for i in range(200)]
    source = tmp_path / "train.txt"
    source.write_text("\ufeff" + "\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows]), encoding="utf-8")
    splits.split_mrpc(source, tmp_path / "mrpc")
    (head, *train), (same, *dev) = ((tmp_path / f"mrpc/{s}.tsv").read_text().splitlines() for s in ("train", "dev"))
    assert head == same == "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    assert sorted([*train, *dev]) == sorted(rows)
    assert 5 <= len(dev) <= 40
