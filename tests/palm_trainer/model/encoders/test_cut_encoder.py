"""A student's encoder: which layers, units and pieces it has of its teacher."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AlbertConfig, AutoConfig, DistilBertConfig, ModernBertConfig, RobertaConfig

from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import Encoder, LoadedEncoder, build_scratch, new_encoder
from palm_trainer.model.encoders.cut_encoder import choose_layers, cut_layers, cut_pieces
from palm_trainer.tokenization.prune_vocabulary import prune_vocabulary

TEXTS = ["fly to boston", "weather in denver", "play music, please"]
BATCH = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}


def scratch(layers: int = 6) -> LoadedEncoder:
    return build_scratch(TEXTS, layers=layers, hidden_size=16, heads=2, vocab_size=120, max_length=24)


def of_transformers(config: Any) -> LoadedEncoder:
    torch.manual_seed(1)
    return replace(scratch(1), backbone=Encoder(new_encoder(config), pooling="cls", takes_types=False), name="other")


@pytest.mark.parametrize(
    ("total", "count", "kept"),
    [
        (6, 3, [1, 3, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (6, 1, [5]),
        (6, 4, [0, 2, 3, 5]),
        (1, 1, [0]),
        (12, 3, [3, 7, 11]),
    ],
)
def test_layers_are_evenly_chosen_with_the_last(total, count, kept):
    assert choose_layers(total, count) == kept


def test_student_has_the_chosen_layers_of_its_teacher():
    teacher = scratch()
    state = torch.get_rng_state()
    student = cut_layers(teacher, 3, None)
    assert torch.equal(torch.get_rng_state(), state)
    before, after = teacher.backbone.encoder.state_dict(), student.backbone.encoder.state_dict()
    for name, tensor in after.items():
        start, _, rest = name.partition("encoder.layer.")
        if rest:
            number, _, rest = rest.partition(".")
            name = f"{start}encoder.layer.{int(number) * 2 + 1}.{rest}"
        assert torch.equal(tensor, before[name]), name
    assert student.backbone.encoder.config.num_hidden_layers == 3
    assert teacher.backbone.encoder.config.num_hidden_layers == 6
    assert student.backbone.inputs == teacher.backbone.inputs
    assert student.tokenizer_json == teacher.tokenizer_json


def test_all_layers_give_the_same_vectors():
    teacher = scratch(2)
    student = cut_layers(teacher, None, 64)  # as wide as it is
    teacher.backbone.eval()
    with torch.no_grad():
        expected = teacher.backbone(**BATCH)["sequence_output"]
        assert torch.allclose(student.backbone.eval()(**BATCH)["sequence_output"], expected, atol=1e-6)


def test_units_with_the_largest_weights_stay():
    teacher = scratch(2)
    block = teacher.backbone.encoder.encoder.layer[1]
    with torch.no_grad():
        block.intermediate.dense.weight[[3, 40]] += 5.0
        block.output.dense.weight[:, 7] += 9.0
        block.intermediate.dense.bias.copy_(torch.arange(64.0))
    student = cut_layers(teacher, 1, 8)
    narrowed = student.backbone.encoder.encoder.layer[0]
    units = narrowed.intermediate.dense.bias.tolist()
    assert {3.0, 7.0, 40.0} <= set(units)
    assert units == sorted(units)
    kept = [int(unit) for unit in units]
    assert torch.equal(narrowed.output.dense.weight, block.output.dense.weight[:, kept])
    assert student.backbone.encoder.config.intermediate_size == 8
    assert student.backbone(**BATCH)["sequence_output"].shape == (1, 4, 16)


def test_other_families_can_be_cut():
    settings = {"num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 40}
    roberta = of_transformers(RobertaConfig(hidden_size=16, intermediate_size=32, **settings))
    assert len(cut_layers(roberta, 2, 16).backbone.encoder.encoder.layer) == 2
    distilbert = of_transformers(DistilBertConfig(dim=16, n_layers=4, n_heads=2, hidden_dim=32, vocab_size=40))
    assert len(cut_layers(distilbert, 2, None).backbone.encoder.transformer.layer) == 2


@pytest.mark.parametrize(
    ("config", "layers", "width", "reason"),
    [
        (
            AlbertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, embedding_size=8, vocab_size=40),
            1,
            None,
            "its layers share weights, or do not stand in one list",
        ),
        (DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=40), 1, 8, "no intermediate_size"),
        (
            ModernBertConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                vocab_size=40,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                cls_token_id=1,
                sep_token_id=2,
            ),
            1,
            None,
            "ModernBertModel",
        ),
        (
            AutoConfig.for_model(
                "bert",
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=16,
                vocab_size=40,
            ),
            1,
            8,
            "its feed-forward layers are not two matrices",
        ),
    ],
    ids=["albert", "distilbert", "modernbert", "square"],
)
def test_encoder_that_cannot_be_cut_is_refused(config, layers, width, reason):
    with pytest.raises(
        ConfigError, match=r"train\.distillation\.student needs an encoder whose layers can be cut"
    ) as error:
        cut_layers(of_transformers(config), layers, width)
    assert reason in str(error.value)
    assert "Leave out layers and intermediate_size" in str(error.value)


def test_more_than_the_teacher_has_is_refused():
    with pytest.raises(
        ConfigError, match=r"student\.layers must be at most 2, the number of layers of 'scratch', got 3\."
    ):
        cut_layers(scratch(2), 3, None)
    with pytest.raises(ConfigError, match=r"intermediate_size must be at most 64, the width of 'scratch', got 65\."):
        cut_layers(scratch(2), 1, 65)


def test_cut_pieces_keep_their_vectors():
    teacher = scratch(1)
    vocabulary = prune_vocabulary(teacher.tokenizer_json, ["fly to boston"])
    student = cut_pieces(teacher, vocabulary)
    before, after = (Tokenizer.from_str(encoder.tokenizer_json) for encoder in (teacher, student))
    pieces = after.get_vocab()
    assert len(pieces) < len(before.get_vocab())
    assert student.backbone.encoder.config.vocab_size == len(pieces) == len(student.backbone.embedding_table)
    for piece, index in pieces.items():
        row = teacher.backbone.embedding_table[before.token_to_id(piece)]
        assert torch.equal(student.backbone.embedding_table[index], row)
    text = "fly to boston"
    first, second = before.encode(text), after.encode(text)
    assert first.tokens == second.tokens
    teacher.backbone.eval()
    vectors = []
    for encoder, encoding in ((teacher, first), (student, second)):
        ids = torch.tensor([encoding.ids])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        with torch.no_grad():
            vectors.append(encoder.backbone.eval()(**batch)["sequence_output"])
    assert torch.equal(*vectors)
    assert student.pad_token_id == after.token_to_id("[PAD]")
