"""What does not fit together is said before anything runs."""

import pytest

from palm_trainer.errors import WiringError
from palm_trainer.tensors import POOLED_OUTPUT, SEQUENCE_OUTPUT, TensorSpec, check_fit


def test_what_fits_passes():
    check_fit([SEQUENCE_OUTPUT], [POOLED_OUTPUT, SEQUENCE_OUTPUT], "head 'slots'", "the backbone")


def test_a_missing_tensor_is_named_with_what_there_is():
    with pytest.raises(
        WiringError, match="head 'slots' needs 'sequence_output', but the backbone gives: pooled_output"
    ):
        check_fit([SEQUENCE_OUTPUT], [POOLED_OUTPUT], "head 'slots'", "the backbone")
    with pytest.raises(WiringError, match="gives: nothing"):
        check_fit([SEQUENCE_OUTPUT], [], "head 'slots'", "the backbone")


def test_axes_and_dtype_must_agree():
    other = TensorSpec("pooled_output", "float32", ("batch", "sequence", "hidden"))
    with pytest.raises(
        WiringError, match=r"as float32\['batch', 'hidden'\], but the backbone gives float32\['batch', 'sequence'"
    ):
        check_fit([POOLED_OUTPUT], [other], "head 'intent'", "the backbone")
