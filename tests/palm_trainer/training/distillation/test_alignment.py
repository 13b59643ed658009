"""Alignment of tags with the tokens of another tokenizer."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.types import SPECIAL, Encoding
from palm_trainer.tensors import NO_SOFT_TARGET
from palm_trainer.training.distillation.alignment import realign_tags

TAGS = ("O", "B-a", "I-a")


def pieces(*offsets):
    """A row with a special piece at both ends."""
    own = [(0, 0), *offsets, (0, 0)]
    return Encoding([0] * len(own), [0] * len(own), own, [SPECIAL, *[0] * len(offsets), SPECIAL])


def rows(*told):
    nothing = (NO_SOFT_TARGET,) * 3
    return np.array([nothing, *told, nothing], dtype=np.float32)


def test_realign_tags_example_by_hand():
    """Teacher: "new|york|city", the student "n|ew|york c|ity" and back."""
    text = "new york city"
    coarse, fine = pieces((0, 3), (4, 8), (9, 13)), pieces((0, 1), (1, 3), (4, 10), (10, 13))
    told = rows((0.1, 0.7, 0.2), (0.3, 0.1, 0.6), (0.8, 0.1, 0.1))
    wanted = rows((0.1, 0.7, 0.2), (0.1, 0.0, 0.9), (0.3, 0.1, 0.6), (0.8, 0.0, 0.2))
    np.testing.assert_allclose(realign_tags(told, coarse, fine, text, TAGS), wanted, rtol=1e-6)
    back = realign_tags(wanted, fine, coarse, text, TAGS)
    np.testing.assert_allclose(back, rows((0.1, 0.7, 0.2), (0.3, 0.1, 0.6), (0.3, 0.0, 0.7)), rtol=1e-6)


def test_realign_tags_truncated_text_has_no_targets():
    """It read "ab" only; behind the first piece without a counterpart nothing is taught."""
    told = realign_tags(rows((0.2, 0.8, 0.0)), pieces((0, 2)), pieces((0, 1), (1, 2), (3, 4)), "ab cd", TAGS)
    np.testing.assert_allclose(told, rows((0.2, 0.8, 0.0), (0.2, 0.0, 0.8), (NO_SOFT_TARGET,) * 3), rtol=1e-6)
    blank = realign_tags(rows((0.2, 0.8, 0.0)), pieces((1, 2)), pieces((0, 1), (1, 2)), " a", TAGS)
    assert (blank == NO_SOFT_TARGET).all()


@given(data=st.data())
def test_realign_tags_equal_tokens_stay_unchanged(data):
    text = data.draw(st.text("ab ", min_size=1, max_size=8))
    cuts = [
        sorted({0, len(text), *data.draw(st.sets(st.integers(1, 7).filter(lambda i: i < len(text))))}) for _ in "12"
    ]
    theirs, ours = (pieces(*pairwise(cut)) for cut in cuts)
    told = rows(*np.random.default_rng(0).dirichlet(np.ones(3), len(theirs) - 2))
    found = realign_tags(told, theirs, ours, text, TAGS)
    taught = found[:, 0] >= 0
    np.testing.assert_allclose(found[taught].sum(1), 1.0, rtol=1e-5)
    same = realign_tags(told, theirs, theirs, text, TAGS)
    kept = same[:, 0] >= 0
    np.testing.assert_array_equal(same[kept], told[kept])
    if not any(character.isspace() for character in text):
        assert kept.sum() == len(theirs) - 2
