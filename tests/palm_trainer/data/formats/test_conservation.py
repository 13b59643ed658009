"""Nothing of a file is lost in silence: what a reader does not use, it counts and tells with a place.

A writer of this test, which knows nothing of PALM's writers, makes a file of each format. It returns the examples
that must come out, and the account of everything else that it has put into the file.
"""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import MAX_KINDS, OTHER_KINDS, Defects, FormatOptions

WORDS = ["to", "new", "york", "Ümit", "北京", "6", "x-y", "don't", "😀"]
NAMES = ["fly", "play music", "alarm/set", "5"]
LABELS = ["city", "time.start"]
OVERLAP = "span that overlaps another of its field (left out; the longest is kept)"


@st.composite
def rows(draw):
    """A row: words, spans of words with their label, role and group, one intent or several, and things beside them."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5))
    bounds = sorted(draw(st.sets(st.integers(0, len(words)), max_size=4)))
    spans = []
    for first, last in zip(bounds[::2], bounds[1::2], strict=False):
        role = draw(st.sampled_from(["", "", "from"]))
        spans.append((first, last, draw(st.sampled_from(LABELS)), role, draw(st.sampled_from(["", "", "1"]))))
    return {
        "words": words,
        "spans": spans,
        "intents": draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True)),
        "extra": draw(st.booleans()),
        "synonym": draw(st.booleans()),
        "turns": draw(st.lists(st.sampled_from(WORDS), max_size=2)),
    }


ROWS = st.lists(rows(), min_size=1, max_size=4)


def ranges(row):
    found, start = [], 0
    for word in row["words"]:
        found.append((start, start + len(word)))
        start += len(word) + 1
    return found


def text(row):
    return " ".join(row["words"])


def slots(row, *, roles=True):
    places = ranges(row)
    return tuple(
        LabelledSpan(places[first][0], places[last - 1][1], label, role if roles else "", group if roles else "")
        for first, last, label, role, group in row["spans"]
    )


def tags(row):
    found = ["O"] * len(row["words"])
    for first, last, label, _, _ in row["spans"]:
        found[first:last] = ["B-" + label] + ["I-" + label] * (last - first - 1)
    return found


def spans_json(row):
    return [
        {"start": s.start, "end": s.end, "label": s.label}
        | ({"role": s.role} if s.role else {})
        | ({"group": s.group} if s.group else {})
        for s in slots(row)
    ]


def objects(data, told):
    """Rows of jsonl with numbers of rows, an overlapping span, a class given twice and an unlabelled field."""
    found = []
    for number, row in enumerate(data):
        item = {"text": text(row), "intent": list(row["intents"]), "slots": spans_json(row), "id": number, "note": None}
        told["'id' (passed over)"] += 1
        item["context"] = row.get("turns", [])
        if row["extra"]:
            item |= {"guid": "x", "domain": "d", "stars": 5}
            item["intent"].append(item["intent"][0])
            told["'guid' (passed over)"] += 1
            told["class given twice for one row (kept once)"] += 1
            whole = {"start": 0, "end": len(text(row)), "label": "whole"}
            item["slots"].append(whole)
            told[OVERLAP] += len(row["spans"])
        found.append(item)
    return found


def objects_examples(data):
    found = []
    for row in data:
        fields = {"intent": tuple(row["intents"]), "slots": slots(row)}
        if row["extra"]:
            fields |= {"domain": "d", "stars": "5"}
            longest = [span for span in slots(row) if span.end - span.start == len(text(row))]
            fields["slots"] = tuple(longest) or (LabelledSpan(0, len(text(row)), "whole"),)
            if not longest and not row["spans"]:
                fields["slots"] = (LabelledSpan(0, len(text(row)), "whole"),)
        found.append((text(row), None, fields))
    return found


def write_jsonl(data, path, told):
    path.write_text("".join(json.dumps(item) + "\n\n" for item in objects(data, told)))
    return objects_examples(data), {}


def write_json(data, path, told):
    path.write_text(json.dumps(objects(data, told)))
    return objects_examples(data), {}


def write_parquet(data, path, told):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    span = pa.struct(
        [("start", pa.int64()), ("end", pa.int64()), *((n, pa.string()) for n in ("label", "role", "group"))]
    )
    items = objects(data, told)
    columns = ["text", "context", "intent", "slots", "id", "guid", "domain", "stars", "note"]
    table = {name: [item.get(name) for item in items] for name in columns}
    table["slots"] = pa.array(table["slots"], pa.list_(span))
    pyarrow.parquet.write_table(pa.table(table), path)
    return objects_examples(data), {}


def write_datasets(data, path, told):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    items = [
        {**item, "guid": item.get("guid"), "domain": item.get("domain"), "stars": item.get("stars")}
        for item in objects(data, told)
    ]
    keys = ("start", "end", "label", "role", "group")
    for item in items:
        item["slots"] = [{key: span.get(key) for key in keys} for span in item["slots"]] or None
    datasets.Dataset.from_list(items).save_to_disk(path)
    examples = []
    for (content, pair, fields), item in zip(objects_examples(data), items, strict=True):
        unlabelled = {} if item["slots"] else {"slots": ()}
        examples.append((content, pair, {k: v for k, v in fields.items() if k not in unlabelled}))
    return examples, {}


def write_table(data, path, told):
    """A table with numbers of rows, a skipped column and a class that some rows lack."""
    delimiter = "," if path.suffix == ".csv" else "\t"
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(["id", "sentence", "intent", "_", "domain"])
    examples = []
    for number, row in enumerate(data):
        joined = "|".join([*row["intents"], *row["intents"][: row["extra"]]])
        writer.writerow([number, text(row), joined, "skipped" if row["extra"] else "", "d"])
        told["'id' (passed over)"] += 1
        told["column 4, named '_' (passed over)"] += row["extra"]
        told["class given twice for one row (kept once)"] += row["extra"]
        examples.append((text(row), None, {"intent": tuple(row["intents"]), "domain": ("d",)}))
    path.write_text(file.getvalue())
    return examples, {"label_separator": "|"}


def write_palm(data, path, told):
    lines = ["idx\ttext_a\tslots\tintent\t_"]
    examples = []
    for number, row in enumerate(data):
        words, labels = "\x02".join(row["words"]), "\x02".join(tags(row))
        end = "\x02" if row["extra"] else ""
        lines.append(f"{number}\t{words}{end}\t{labels}\t{row['intents'][0]}\t{'more' * row['extra']}")
        told["'idx' (passed over)"] += 1
        told["column 5, named '_' (passed over)"] += row["extra"]
        told["0x02 after the last word (removed)"] += row["extra"]
        examples.append((text(row), None, {"slots": slots(row, roles=False), "intent": row["intents"][0]}))
    path.write_text("\n".join(lines))
    return examples, {}


def write_joint(data, path, told):
    path.mkdir()
    examples = []
    lines = {"seq.in": [], "seq.out": [], "label": []}
    for row in data:
        lines["seq.in"].append((" " if row["extra"] else "") + ("  " if row["synonym"] else " ").join(row["words"]))
        lines["seq.out"].append(" ".join(tags(row)))
        lines["label"].append("#".join([*row["intents"], *row["intents"][: row["extra"]]]))
        told["white space before or after an utterance (removed)"] += row["extra"]
        told["doubled white space between words (made one space)"] += row["synonym"] and len(row["words"]) > 1
        told["class given twice for one row (kept once)"] += row["extra"]
        examples.append((text(row), None, {"intent": tuple(row["intents"]), "slots": slots(row, roles=False)}))
    for name, content in lines.items():
        (path / name).write_text("\n".join(content) + "\n")
    return examples, {"label_separator": "#"}


def write_conll(data, path, told):
    """Numbered words as in xSID and CoNLL-U: comments, columns in between, empty nodes and `# text` as it was written."""
    lines = ["# global.columns = ID FORM UPOS INTENT TAG"]
    told["comment '# global.columns' (passed over)"] += 1
    examples = []
    for number, row in enumerate(data):
        intent = row["intents"][0]
        written = text(row) if row["synonym"] else "".join(row["words"])
        lines += [f"# sent_id = {number}", f"# text-en: {number}", f"# text = {written}", f"# intent = {intent}"]
        told["comment '# sent_id' (passed over)"] += 1
        told["comment '# text-en' (passed over)"] += 1
        if row["extra"]:
            lines += ["# a free comment", "0.1\tempty\t_\t_\tO"]
            told["comment without a key (passed over)"] += 1
            told["line of an empty node (passed over)"] += 1
        for position, (word, tag) in enumerate(zip(row["words"], tags(row), strict=True), 1):
            lines.append(f"{position}\t{word}\t{'NOUN' if row['extra'] else '_'}\t{intent}\t{tag}")
            told["cell of column 3, neither token nor tag (passed over)"] += row["extra"]
        lines.append("")
        spans = slots(row, roles=False)
        if not row["synonym"]:
            lengths = [0]
            for word in row["words"]:
                lengths.append(lengths[-1] + len(word))
            spans = tuple(LabelledSpan(lengths[f], lengths[e], label) for f, e, label, _, _ in row["spans"])
        examples.append((written, None, {"slots": spans, "intent": intent}))
    lines.append("# intent: of nothing")
    told["comment without a sentence below it (passed over)"] += 1
    path.write_text("\n".join(lines) + "\n")
    return examples, {}


def write_plain_conll(data, path, told):
    """CoNLL-2003: columns between token and tag, and lines -DOCSTART-."""
    lines = ["-DOCSTART- -X- O O", ""]
    told["line -DOCSTART- (passed over)"] += 1
    examples = []
    for row in data:
        for word, tag in zip(row["words"], tags(row), strict=True):
            lines.append(f"{word} NNP I-NP {tag}")
            for column in (2, 3):
                told[f"cell of column {column}, neither token nor tag (passed over)"] += 1
        lines.append("")
        examples.append((text(row), None, {"slots": slots(row, roles=False)}))
    path.write_text("\n".join(lines))
    return examples, {}


def annotated(row, told, *, synonyms=True):
    pieces, position = [], 0
    for first, last, label, role, group in row["spans"]:
        entity = {"entity": label} | ({"role": role} if role else {}) | ({"group": group} if group else {})
        if row["synonym"]:
            entity["value"] = "another"
        if row["extra"]:
            entity["extractor"] = "e"
            told["'extractor' of an entity (passed over)"] += 1
        pieces += row["words"][position:first]
        pieces.append(f"[{' '.join(row['words'][first:last])}]{json.dumps(entity)}")
        position = last
    return " ".join([*pieces, *row["words"][position:]])


def rasa_examples(data):
    return [(text(row), None, {"intent": row["intents"][0], "slots": slots(row)}) for row in data]


def write_rasa(data, path, told):
    lines = ['version: "3.1"', "nlu:"]
    for row in data:
        lines += [f"- intent: {json.dumps(row['intents'][0])}"]
        if row["extra"]:
            lines += ["  metadata: {a: 1}"]
            told["'metadata' of an intent (passed over)"] += 1
        lines += ["  examples:", f"  - text: {json.dumps(annotated(row, told))}"]
        if row["extra"]:
            lines += ["    metadata: {sentiment: 1}", "- lookup: city", "  examples: |", "    - Rome"]
            told["'metadata' of an example (passed over)"] += 1
    lines += ["stories:", "- story: a", "  steps: [{user: hi}]", "- story: b", "responses:", "  utter_a: [{text: x}]"]
    told["entry of 'stories' (passed over)"] += 2
    told["entry of 'responses' (passed over)"] += 1
    path.write_text("\n".join(lines) + "\n")
    return rasa_examples(data), {}


def write_rasa_markdown(data, path, told):
    lines = []
    for row in data:
        lines += [f"## intent:{row['intents'][0]}", f"- {annotated(row, told)}"]
        if row["extra"]:
            lines += ["loose words", "## regex:zip", "- [0-9]{5}"]
            told["line that is no item of its section (passed over)"] += 1
    path.write_text("\n".join(lines) + "\n")
    return rasa_examples(data), {}


def write_rasa_json(data, path, told):
    found = []
    for row in data:
        entities = []
        for span in slots(row):
            value = "another" if row["synonym"] else text(row)[span.start : span.end]
            entity = {"start": span.start, "end": span.end, "entity": span.label, "value": value}
            entity |= {"role": span.role or None, "group": span.group}
            if row["extra"]:
                entity |= {"confidence": 0.5}
                told["'confidence' (passed over)"] += 1
            entities.append(entity)
        found.append({"text": text(row), "intent": row["intents"][0], "entities": entities, "metadata": {}})
    patterns = [{"name": "a", "pattern": "[0-9]"}, {"name": "b", "pattern": "(?=a)"}]
    content = {"common_examples": found, "regex_features": patterns, "lookup_tables": []}
    content["entity_synonyms"] = [{"value": "a", "synonyms": ["b"]}]
    told["regular expression that RE2 cannot read (passed over)"] += 1
    path.write_text(json.dumps({"rasa_nlu_data": content}))
    return rasa_examples(data), {}


def write_squad(data, path, told):
    paragraphs, examples = [], []
    for number, row in enumerate(data):
        answers = []
        for span in slots(row):
            answers.append({"text": text(row)[span.start : span.end], "answer_start": span.start})
        expected = tuple(sorted({LabelledSpan(s.start, s.end, "") for s in slots(row)}, key=lambda s: s.start))
        question = {"id": str(number), "question": row["intents"][0], "answers": answers, "is_impossible": not answers}
        if row["extra"]:
            question["plausible_answers"] = [{"text": "a", "answer_start": 0}]
            told["'plausible_answers' of SQuAD's question (passed over)"] += 1
            if answers:
                answers.append(dict(answers[0]))
                told["answer that equals another of its question (kept once)"] += 1
                answers[0]["answer_id"] = 7
                told["'answer_id' of SQuAD's answer (passed over)"] += 1
        paragraphs.append({"context": text(row), "qas": [question], "document_id": number + 1})
        told["'document_id' of SQuAD's paragraph (passed over)"] += 1
        examples.append((row["intents"][0], text(row), {"answer": expected}))
    told["'title' of SQuAD's article (passed over)"] += 1
    told["'source' of SQuAD's file (passed over)"] += 1
    path.write_text(json.dumps({"version": "v2.0", "source": "s", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return examples, {}


def write_squad_rows(data, path, told):
    lines, examples = [], []
    for row in data:
        found = slots(row)
        columns = [text(row), row["intents"][0], json.dumps([text(row)[s.start : s.end] for s in found])]
        columns.append(json.dumps([s.start for s in found]))
        lines.append("\t".join([*columns, *["more"] * row["extra"]]))
        told["column after the starts of the answers (passed over)"] += row["extra"]
        examples.append(
            (row["intents"][0], text(row), {"answer": tuple(LabelledSpan(s.start, s.end, "") for s in found)})
        )
    path.write_text("\n".join(lines))
    return examples, {}


def write_clinc(data, path, told):
    content = [[text(row), row["intents"][0]] for row in data]
    path.with_name("f.json").write_text(json.dumps({"train": content}))
    return [(text(row), None, {"intent": row["intents"][0]}) for row in data], {}


def write_text(data, path, told):
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(text(row) for row in data).encode() + b"\r\n")
    told["byte order mark before the first line (removed)"] += 1
    told["line ended by CRLF (read as a line end)"] += len(data)
    return [(text(row), None, {}) for row in data], {}


CASES = {
    "jsonl": ("jsonl", "f.jsonl", write_jsonl),
    "json": ("json", "f.json", write_json),
    "parquet": ("parquet", "f.parquet", write_parquet),
    "datasets": ("datasets", "saved", write_datasets),
    "csv": ("csv", "f.csv", write_table),
    "tsv": ("tsv", "f.tsv", write_table),
    "palm": ("palm", "f.tsv", write_palm),
    "joint": ("joint", "d", write_joint),
    "conll, numbered": ("conll", "f.conllu", write_conll),
    "conll, plain": ("conll", "f.conll", write_plain_conll),
    "rasa, YAML": ("rasa", "f.yml", write_rasa),
    "rasa, Markdown": ("rasa", "f.md", write_rasa_markdown),
    "rasa, JSON": ("rasa", "f.json", write_rasa_json),
    "squad": ("squad", "f.json", write_squad),
    "squad, rows": ("squad", "f.tsv", write_squad_rows),
    "clinc": ("clinc", "f.json#train", write_clinc),
    "text": ("text", "f.txt", write_text),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(data=ROWS)
def test_what_a_file_holds_is_used_or_told(case, data, tmp_path_factory):
    name, file, write = CASES[case]
    path = tmp_path_factory.mktemp("conserve") / file
    told = Counter()
    expected, options = write(data, path, told)
    defects = Defects()
    examples = list(FORMATS[name](path, FormatOptions(**options), defects))
    assert [(e.text, e.pair, dict(e.fields)) for e in examples] == expected
    if name in ("jsonl", "json", "parquet", "datasets"):
        assert [e.context.turns if e.context else () for e in examples] == [tuple(row["turns"]) for row in data]
    assert {defect.kind: defect.count for defect in defects} == {kind: n for kind, n in told.items() if n}
    folder = str(path.parent)
    for defect in defects:
        assert defect.first.startswith(folder)


ALIKE = [
    {"words": ["fly", "to", "new", "york"], "spans": [(2, 4, "city", "", "")], "intents": ["flight"]},
    {"words": ["play", "北京", "now"], "spans": [(1, 2, "song", "", ""), (2, 3, "time", "", "")], "intents": ["5"]},
    {"words": ["hi"], "spans": [], "intents": ["greet"]},
]
PLAIN = [row | {"extra": False, "synonym": True} for row in ALIKE]


def plain_jsonl(path, **keys):
    lines = [{"text": text(r), "intent": r["intents"][0], "slots": spans_json(r), **keys} for r in PLAIN]
    path.write_text("\n".join(map(json.dumps, lines)))


def number_jsonl(path):
    lines = [{"tokens": r["words"], "slots": tags(r), "intent": r["intents"][0]} for r in PLAIN]
    for line in lines:
        line["intent"] = int(line["intent"]) if line["intent"].isdigit() else line["intent"]
    path.write_text("\n".join(map(json.dumps, lines)))


def plain_json(path):
    rows = [{"sentence": text(r), "intent": r["intents"][0], "slots": spans_json(r), "id": 3} for r in PLAIN]
    path.write_text(json.dumps(rows))


def plain_parquet(path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    rows = {"tokens": [r["words"] for r in PLAIN], "slots": [tags(r) for r in PLAIN]}
    pyarrow.parquet.write_table(pa.table(rows | {"intent": [r["intents"][0] for r in PLAIN]}), path)


def by(write):
    return lambda path: write([row | {"synonym": write is write_conll} for row in PLAIN], path, Counter())


@pytest.mark.parametrize(
    ("name", "file", "write"),
    [
        ("jsonl", "a.jsonl", plain_jsonl),
        ("jsonl", "b.jsonl", number_jsonl),
        ("json", "a.json", plain_json),
        ("parquet", "a.parquet", plain_parquet),
        ("palm", "a.tsv", by(write_palm)),
        ("joint", "a", by(write_joint)),
        ("conll", "a.conll", by(write_conll)),
        ("rasa", "a.yml", by(write_rasa)),
        ("rasa", "a.md", by(write_rasa_markdown)),
        ("rasa", "b.json", by(write_rasa_json)),
    ],
)
def test_the_same_rows_read_alike_in_every_format(tmp_path, name, file, write):
    path = Path(tmp_path / file)
    write(path)
    examples = FORMATS[name](path, FormatOptions(), Defects())
    assert [(e.text, dict(e.fields)) for e in examples] == [
        (text(row), {"intent": row["intents"][0], "slots": slots(row)}) for row in PLAIN
    ]


@pytest.mark.parametrize("name", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "x": " b "}, ("a", None, {"x": "b"})),
        ({"text": "911", "x": "3"}, ("911", None, {"x": "3"})),
        ({"sentence": "a", "text_b": "b", "x": " "}, ("a", "b", {})),
        ({"question": "a", "context": "b", "x": "c"}, ("a", "b", {"x": "c"})),
        ({"sentence1": "a", "sentence2": "b", "idx": "7"}, ("a", "b", {})),
        ({"text": "a", "context": "kitchen"}, ("a", None, {"context": "kitchen"})),
    ],
)
def test_a_row_of_strings_reads_alike_in_every_table(tmp_path, name, row, expected):
    path = tmp_path / "a"
    if name in ("jsonl", "json"):
        path.write_text(json.dumps(row if name == "jsonl" else [row]))
    elif name == "parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.table({key: [value] for key, value in row.items()}), path)
    else:
        separator = "," if name == "csv" else "\t"
        path.write_text(separator.join(row) + "\n" + separator.join(row.values()) + "\n")
    [example] = FORMATS[name](path, FormatOptions(), Defects())
    assert (example.text, example.pair, dict(example.fields)) == expected


def test_kinds_that_hold_names_of_the_data_are_bounded(file, parse):
    comments = "".join(f"# key{n}: x\n" for n in range(500))
    _, defects = parse("conll", file("a.conll", comments + "a\tO\n"))
    assert len(defects) == MAX_KINDS + 1
    assert defects[OTHER_KINDS] == 500 - MAX_KINDS
