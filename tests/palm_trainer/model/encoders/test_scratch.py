"""Encoders from scratch: a reproducible vocabulary, and a BERT of the configured size."""

import os
import subprocess
import sys

import pytest
import torch

from palm_serve.tokenization import TextTokenizer
from palm_trainer.model.encoders import build_scratch, freeze_unused_rows
from palm_trainer.tokenization.learned import train_tokenizer
from palm_trainer.tokenization.vocabulary_files import SPECIAL_TOKENS

TEXTS = [f"flight {a} from {b} to {c}" for a in ("one", "two") for b in ("boston", "denver") for c in ("paris", "rome")]


def test_train_tokenizer_is_equal_in_every_process():
    """Hash maps differ from process to process; a resumed run must find the pieces under the same numbers."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tokenizers import Tokenizer\n"
        "import importlib.util, types\n"
        f"texts = {TEXTS!r}\n"
        "for name in ('palm_trainer.model.encoders.encoder', 'palm_trainer.model.encoders.load_pretrained', 'transformers', 'palm_trainer.model.encoders'):\n"
        "    sys.modules[name] = types.SimpleNamespace(Encoder=None, Pooling=None, LoadedEncoder=None, BertConfig=None, new_encoder=None)\n"
        f"spec = importlib.util.spec_from_file_location('scratch', {train_tokenizer.__code__.co_filename!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(module.train_tokenizer(texts, vocab_size=70, lowercase=True, characters=False).to_str())\n"
    )
    run = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ) for _ in range(3)
    ]
    here = train_tokenizer(TEXTS, vocab_size=70, lowercase=True, characters=False).to_str()
    assert [r.stdout.strip() or r.stderr for r in run] == [here] * 3


def test_train_tokenizer_inner_characters_are_tokens():
    tokenizer = train_tokenizer(TEXTS, vocab_size=70, lowercase=True, characters=False)
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("##o [MASK]").tokens == ["[CLS]", "[UNK]", "[UNK]", "o", "[MASK]", "[SEP]"]
    assert tokenizer.get_vocab_size() <= 70


def test_train_tokenizer_characters_are_tokens():
    tokenizer = train_tokenizer(["明天北京", "play abc"], vocab_size=64, lowercase=True, characters=True)
    assert tokenizer.encode("北京 abc").tokens == ["[CLS]", "北", "京", "a", "b", "c", "[SEP]"]
    assert not [piece for piece in tokenizer.get_vocab() if piece.startswith("##")]


def test_build_scratch_seed_decides_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return build_scratch(TEXTS, layers=1, hidden_size=16, heads=2).backbone.state_dict()

    one, same, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("convolutions", [0, 2])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_build_scratch_padding_leaves_vectors_unchanged(pooling, convolutions):
    encoder = build_scratch(TEXTS, layers=2, hidden_size=16, heads=2, pooling=pooling, convolutions=convolutions)
    backbone = encoder.backbone.eval()
    ids = torch.tensor([TextTokenizer(encoder.tokenizer_json, 20).encode(TEXTS[0]).input_ids])
    alone = backbone(ids, torch.ones_like(ids))
    padded = torch.cat([ids, torch.full((1, 5), encoder.pad_token_id)], dim=1)
    mask = (torch.arange(padded.shape[1]) < ids.shape[1]).long()[None]
    beside = backbone(padded, mask)
    torch.testing.assert_close(beside["pooled_output"], alone["pooled_output"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        beside["sequence_output"][:, : ids.shape[1]], alone["sequence_output"], atol=1e-6, rtol=1e-5
    )
    expected = alone["sequence_output"]
    torch.testing.assert_close(alone["pooled_output"], expected[:, 0] if pooling == "cls" else expected.mean(1))


def test_convolution_reads_only_adjacent_tokens():
    embeddings = build_scratch(TEXTS, hidden_size=16, heads=2, convolutions=2).backbone.eval().encoder.embeddings
    ids = torch.arange(5, 14)[None]
    other = ids.clone()
    other[0, 4] = 20
    changed = (embeddings(ids) != embeddings(other)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]  # two of them, one piece to each side


@pytest.mark.parametrize("convolutions", [0, 1])
def test_freeze_unused_rows_leaves_outputs_unchanged(convolutions):
    backbone = build_scratch(TEXTS, layers=1, hidden_size=16, heads=2, convolutions=convolutions).backbone.eval()
    ids = torch.arange(backbone.encoder.config.vocab_size)[:, None]
    before = backbone(ids, torch.ones_like(ids))["sequence_output"]
    freeze_unused_rows(backbone, torch.tensor([0, 2, 3]))
    assert torch.equal(backbone(ids, torch.ones_like(ids))["sequence_output"], before)
