"""Arguments of PALM's calls that have no effect: accepted where PALM had them, with one warning for each name."""

import inspect
import warnings

import pytest

import palm_trainer as palm
from palm_trainer.api.compat import accept_unused


@accept_unused(verbose="path", dev_count="size")
def load(path, size=2, *, shuffle=False):
    return path, size, shuffle


def test_unused_argument_with_a_value_warns_once_per_name():
    with pytest.warns(UserWarning, match=r"^verbose has no effect: heads print nothing\. Leave it out\.$") as caught:
        assert load("a", verbose=True) == ("a", 2, False)
    assert [warning.filename for warning in caught] == [__file__]
    assert load("a", verbose=True, shuffle=True) == ("a", 2, True)  # warnings are errors here
    with pytest.warns(UserWarning, match="dev_count has no effect"):
        assert load("a", False, 3, 8) == ("a", 3, False)


def test_unused_argument_at_its_default_is_silent():
    assert load("a", False, 3, 1) == load("a", size=3, dev_count=1) == ("a", 3, False)


def test_signature_shows_unused_arguments_in_place():
    parameters = inspect.signature(load).parameters
    assert list(parameters) == ["path", "verbose", "size", "dev_count", "shuffle"]
    assert parameters["dev_count"].default == 1
    with pytest.raises(TypeError, match="unexpected keyword argument 'mode'"):
        load("a", mode=1)


def test_components_accept_unused_arguments_by_position(vocab_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        head = palm.head.MRC(64, 16, "answers", True, True, True, 20)
        tagger = palm.head.SequenceLabel(4, 16, 0.1, 0.5, 0.03)
        palm.reader.MatchReader(vocab_path, 16, "wordpiece", "en", 1, None, "pointwise", "train", 4, "rank 0")
        palm.backbone.BERT(16, 1, 2, 50, 32, 2, "gelu", 0.1, 0.1, 0.02, True, "predict")
    assert (head.with_negative, head.max_ans_len) == (True, 20)
    assert (tagger.dropout_prob, tagger.param_initializer_range) == (0.1, 0.03)
    names = {str(warning.message).split(" has no effect")[0] for warning in caught}
    assert names == {
        "pred_output_path",
        "verbose",
        "do_lower_case",
        "learning_rate",
        "dev_count",
        "print_prefix",
        "is_pairwise",
    }
    assert len(caught) == len(names)
    assert {warning.filename for warning in caught} == {__file__}
