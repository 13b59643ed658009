"""Alignment of a teacher's tags with the tokens of a student that tokenizes the same text differently."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from palm_serve.decoding.sequence_label import tagged_range
from palm_serve.types import Encoding
from palm_trainer.tensors import NO_SOFT_TARGET


def realign_tags(
    probabilities: npt.NDArray[np.float32],
    teacher_row: Encoding,
    student_row: Encoding,
    text: str,
    tags: Sequence[str],
) -> npt.NDArray[np.float32]:
    """Assign the tags of a teacher's tokens to the tokens of a student.

    A token takes the tags of the teacher's token that holds its first visible character. If that
    one begins earlier, `B-` becomes `I-`. From the first token without a counterpart on (the
    teacher's text was truncated, or the token is white space), all tokens stay NO_SOFT_TARGET,
    since a tag chain has no holes.

    Args:
        probabilities: of the teacher's tokens, [teacher tokens, tags].
        teacher_row: the teacher's row.
        student_row: the student's row of the same text.
        text: of both rows.
        tags: names of the tags.

    Returns:
        Probabilities of the student's tokens, [student tokens, tags].
    """
    realigned = np.full((len(student_row), len(tags)), NO_SOFT_TARGET, dtype=np.float32)
    begin_tags = []
    inside_tags = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            begin_tags.append(index)
            inside_tags.append(tags.index(f"I-{tag[2:]}"))
    token_at: dict[int, tuple[int, int | None]] = {}
    """Teacher's token and its first visible character, for each character."""
    for token in range(*tagged_range(teacher_row)):
        first_visible = _first_visible(text, teacher_row.offsets[token])
        for position in range(*teacher_row.offsets[token]):
            token_at.setdefault(position, (token, first_visible))
    for student_token in range(*tagged_range(student_row)):
        position_of_token = _first_visible(text, student_row.offsets[student_token])
        if position_of_token is None or position_of_token not in token_at:
            break
        token, first_visible = token_at[position_of_token]
        realigned[student_token] = probabilities[token]
        if first_visible is not None and first_visible < position_of_token:
            realigned[student_token, inside_tags] += realigned[student_token, begin_tags]
            realigned[student_token, begin_tags] = 0.0
    return realigned


def _first_visible(text: str, offsets: tuple[int, int]) -> int | None:
    """Return the position of the first character of a token that is no white space."""
    for position in range(*offsets):
        if not text[position].isspace():
            return position
    return None
