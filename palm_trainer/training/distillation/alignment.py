"""Tags of a teacher's pieces for a student that cuts the same text into other pieces."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from palm_serve.decoding.sequence_label import tagged_range
from palm_serve.types import Encoding
from palm_trainer.tensors import NO_SOFT_TARGET


def realign_tags(
    told: npt.NDArray[np.float32], theirs: Encoding, ours: Encoding, text: str, tags: Sequence[str]
) -> npt.NDArray[np.float32]:
    """A piece takes the tags of the teacher's piece that holds its first visible character; where that one began before, `B-` becomes `I-`.

    Pieces from the first one on without such a counterpart (the teacher's text was cut, or there is nothing to see) stay NO_SOFT_TARGET: a chain has no holes.

    Args:
        told: probabilities of the teacher's pieces, [pieces of its row, T].
        theirs: the teacher's row.
        ours: the student's row of the same text.
        text: of both.
        tags: the T tags.
    """
    found = np.full((len(ours), len(tags)), NO_SOFT_TARGET, dtype=np.float32)
    begins = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
    inside = [tags.index("I-" + tags[i][2:]) for i in begins]
    first, after = tagged_range(theirs)
    holder: dict[int, tuple[int, int | None]] = {}
    for piece in range(first, after):
        begin = _visible(text, theirs.offsets[piece])
        for place in range(theirs.offsets[piece][0], theirs.offsets[piece][1]):
            holder.setdefault(place, (piece, begin))
    for position in range(*tagged_range(ours)):
        seen = _visible(text, ours.offsets[position])
        if seen is None or seen not in holder:
            break
        piece, start = holder[seen]
        found[position] = told[piece]
        if start is not None and start < seen:
            found[position, inside] += found[position, begins]
            found[position, begins] = 0.0
    return found


def _visible(text: str, piece: tuple[int, int]) -> int | None:
    """Position of the first character of a piece that is no white space."""
    return next((place for place in range(*piece) if not text[place].isspace()), None)
