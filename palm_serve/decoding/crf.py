"""Linear-chain CRF inference, exact and vectorised over the batch: Viterbi and forward-backward.

score(tags) = start[tags_0] + sum_t emissions[t, tags_t] + sum_t transitions[tags_{t-1}, tags_t] + end[tags_last]   (Lafferty et al. 2001)

Shapes: emissions [B, L, T] float32, left-aligned; lengths [B] int64; start, end [T]; transitions [T, T], from row to column. A forbidden
transition, start or end is FORBIDDEN or less. A softmax tagger is the same thing with zeros in the place of what was learned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from palm_serve.types import FloatArray, Int64Array

FORBIDDEN = -1e4
"""Log-potential of what may not happen; finite, so that arithmetic with it stays finite."""

LARGEST_LEAD = np.float32(60.0)
"""Emissions further below the best one of their position count as this far below: a probability of 0 that does not underflow."""

_LEAST_LOCAL = np.exp(-LARGEST_LEAD) * np.float32(1.001)

_LEAST_STEP = np.float32(1e-30)
"""Weight of a forbidden step in the recursions, below that of any emission, so that no sum is 0."""

_LEAST_LEAD = -float(LARGEST_LEAD) + 1e-3

_CERTAIN = 0.51
"""More than half of all probability, and a margin for float32."""

_LEAST_SCORE = math.log(_CERTAIN)

_PLAIN_RANGE = (1e-15, 1e15)
"""Largest entries of messages that need no scaling: products of two of them are far from the limits of float32."""

_PLAIN_LENGTH = 64
"""Positions up to which messages are tried without scaling. Those of longer rows would leave the range."""

_BLAS_SINGLE_THREAD = 1 << 18
"""Multiplications up to which OpenBLAS runs a matrix product in the calling thread (interface/gemm.c)."""


@dataclass(frozen=True)
class Potentials:
    """Parameters of the chain, in log space, float32."""

    start: FloatArray
    transitions: FloatArray
    end: FloatArray

    @classmethod
    def constrained(cls, tags: Sequence[str], learned: "Potentials | None" = None) -> "Potentials":
        """Add the BIO rules over `tags` to learned potentials (None: zeros): `I-x` only after `B-x` or `I-x`, never first."""
        count = len(tags)
        start, transitions = np.zeros(count, np.float32), np.zeros((count, count), np.float32)
        for column, tag in enumerate(tags):
            if tag.startswith("I-"):
                allowed = {"B-" + tag[2:], tag}
                start[column] = FORBIDDEN
                for row, previous_tag in enumerate(tags):
                    if previous_tag not in allowed:
                        transitions[row, column] = FORBIDDEN
        end = np.zeros(count, np.float32)
        if learned is not None:
            start, transitions, end = start + learned.start, transitions + learned.transitions, end + learned.end
        return cls(start, transitions, end)

    def scaled(self, factor: float) -> "Potentials":
        """Return all potentials times `factor` (temperature). Forbidden ones stay forbidden for factors down to 0.01."""
        return Potentials(
            self.start * np.float32(factor), self.transitions * np.float32(factor), self.end * np.float32(factor)
        )


class Viterbi:
    """Best paths by dynamic programming, row by row; of equals the one whose tags come first, seen from the end."""

    def __init__(self, potentials: Potentials) -> None:
        self._p = potentials
        self._into = np.ascontiguousarray(potentials.transitions.T)  # [T to, T from]

    def __call__(self, emissions: FloatArray, lengths: Int64Array) -> list[Int64Array]:
        """Return the best tag path of each row, int64 [lengths[row]]."""
        return [self._search(emissions[row, :size]) for row, size in enumerate(lengths.tolist())]

    def _search(self, emissions: FloatArray) -> Int64Array:
        """Pass on only the scores, whose maximum is quick over rows of memory.

        Their predecessors are looked up along the one best path.
        """
        size, tags = emissions.shape
        path = np.zeros(size, dtype=np.int64)
        if not size:
            return path
        reached = np.empty((tags, tags), np.float32)
        scores = [self._p.start + emissions[0]]
        for emission in emissions[1:]:
            np.add(scores[-1][:, None], self._p.transitions, out=reached)
            scores.append(np.maximum.reduce(reached, axis=0) + emission)
        path[-1] = tag = int((scores[-1] + self._p.end).argmax())
        for position in range(size - 2, -1, -1):
            path[position] = tag = int((scores[position] + self._into[tag]).argmax())
        return path


@dataclass(frozen=True)
class Marginals:
    """Messages of one batch, float32 [L, 2, B, T]: [:, 0] from the first position on, [:, 1] from a row's last position back.

    `reach` is what leads to a tag, before its emission; `message` holds that too. A message is divided by its sum on the way to the next
    position, so that none over- or underflows. What lies beyond a row's length is undefined.
    """

    reach: FloatArray
    local: FloatArray
    message: FloatArray
    scale: FloatArray
    """[L, 2, B]: what the message before was divided by; that of the first position is undefined."""
    lengths: Int64Array
    start: FloatArray
    step: FloatArray
    end: FloatArray

    def likeliest(self) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """Return the likeliest tag of each position [B, L], and the rows [B] in which these surely are the only best path.

        A path that has more than half of all probability is the best, and each of its tags is the likeliest of its position. (Emissions
        that count as more than they are can only make others likelier, where the path itself holds none.)
        """
        longest, batch = len(self.reach), len(self.lengths)
        rows, positions = np.arange(batch), np.arange(longest)[:, None]
        onward = self.reach[np.maximum(self.lengths - 1 - positions, 0), 1, rows]
        path = (self.message[:, 0, :batch] * onward).argmax(axis=2)  # [L, B]
        path_local = self.local[positions, 0, rows, path]
        factors = path_local.copy()
        factors[0] *= self.start[path[0]]
        factors[1:] *= self.step[path[:-1], path[1:]] / self.scale[1:, 0, :batch]
        inside = positions < self.lengths
        last = np.maximum(self.lengths - 1, 0)
        everything = self.message[last, 0, rows] @ self.end
        ended = self.end[path[last, rows]]
        certain = np.multiply.reduce(factors, axis=0, where=inside) * ended > _CERTAIN * everything
        certain &= np.minimum.reduce(path_local, axis=0, where=inside, initial=1.0) > _LEAST_LOCAL
        return path.T, certain

    def segment(self, row: int, size: int, first: int, tags: Sequence[int], continuing: int | None) -> float:
        """Return the probability that a segment carries exactly these tags and ends there.

        Args:
            row: of the batch.
            size: positions of the row.
            first: position of the segment's first tag.
            tags: of the segment.
            continuing: the tag that would continue it. None: there is none.
        """
        p = float(self.message[first, 0, row, tags[0]])
        position = first
        for before, tag in pairwise(tags):
            position += 1
            p *= float(self.step[before, tag] * self.local[position, 0, row, tag] / self.scale[position, 0, row])
        if position + 1 < size:
            onward, step = self.message[size - 2 - position, 1, row], self.step[tags[-1]]
            flow = float(step @ onward)
            if continuing is not None:
                flow = max(0.0, flow - float(step[continuing] * onward[continuing]))
            p *= flow / float(self.scale[position + 1, 0, row])
            everything = float(self.reach[position + 1, 0, row] @ onward)
        else:
            p *= float(self.end[tags[-1]])
            everything = float(self.message[position, 0, row] @ self.end)
        return min(1.0, p / everything) if everything > 0 else 0.0


class ForwardBackward:
    """Forward-backward in probability space with scaling (Rabiner 1989, section V.A). Holds the exponentials.

    Both directions run in one loop: backward is forward over the reversed row with the transposed transitions. A column of ones beside the
    transitions makes the same matrix product sum the message that it takes on.

    Of more than `rows` rows at once the matrix products would be so large that BLAS runs them in threads of its own, which would fight with
    those of the inference engine, and cost up to a hundred times what they save.
    """

    def __init__(self, potentials: Potentials) -> None:
        self._start, self._step, self._end = map(np.exp, (potentials.start, potentials.transitions, potentials.end))
        step = np.maximum(self._step, _LEAST_STEP)
        ones = np.ones((len(step), 1), np.float32)
        self._potentials = potentials
        self._both_steps = np.hstack([step, step.T])  # [T, 2 T]
        self.takes_single = bool(2 * self._both_steps.size <= _BLAS_SINGLE_THREAD)
        """True if `single` may be called: its products are small enough for one thread."""
        self._steps = np.stack([np.hstack([step, ones]), np.hstack([step.T, ones])])  # [2, T, T + 1]
        self._first = np.maximum(np.stack([self._start, self._end]), _LEAST_STEP)[:, None]
        self.rows = min(max(_BLAS_SINGLE_THREAD // max(self._steps[0].size, 1), 2), 64)

    def __call__(self, emissions: FloatArray, lengths: Int64Array) -> Marginals:
        """Return the messages for emissions [B, L, T] and lengths [B]."""
        batch, longest, tags = emissions.shape
        # Two rows at least: a single one is a matrix-vector product, which BLAS gives to its threads far sooner.
        shape = (longest, 2, max(batch, 2), tags)
        local = np.ones(shape, np.float32)
        lead = np.maximum(emissions - emissions.max(axis=2, keepdims=True), -LARGEST_LEAD)
        np.exp(lead.transpose(1, 0, 2), out=local[:, 0, :batch])
        reverse = np.maximum(lengths - 1 - np.arange(longest)[:, None], 0)  # [L, B]
        local[:, 1, :batch] = local[reverse, 0, np.arange(batch)]
        message, carried = np.empty(shape, np.float32), np.empty((*shape[:3], tags + 1), np.float32)
        reach, scale = carried[..., :tags], carried[..., tags:]
        reach[0] = self._first
        np.multiply(reach[0], local[0], out=message[0])
        steps = zip(message, carried[1:], reach[1:], scale[1:], local[1:], message[1:], strict=False)
        for before, product, reached, divisor, local_weights, after in steps:
            np.matmul(before, self._steps, out=product)
            np.divide(reached, divisor, out=reached)
            np.multiply(reached, local_weights, out=after)
        return Marginals(reach, local, message, scale[..., 0], lengths, self._start, self._step, self._end)

    def single(self, lead: FloatArray) -> tuple[Marginals, list[int] | None]:
        """Return the messages for one row as a batch of one, and its best path.

        It is what `__call__` and `likeliest` compute, in fewer calls of fewer functions: after a run of the engine the
        caches of the processor hold nothing of this, so that a call costs far more than its arithmetic. Messages are
        scaled only where they leave a range in which nothing is lost.

        Args:
            lead: emissions less the best one of their position, at least -LARGEST_LEAD, for one position at least, [L, T].

        Returns:
            The messages, and the best path. None: it is not proven.
        """
        beliefs = self._unscaled(lead) if len(lead) <= _PLAIN_LENGTH else None
        if beliefs is None:
            beliefs = self(lead[None], np.array([len(lead)], np.int64))
        likeliest = (beliefs.message[:, 0, 0] * beliefs.reach[::-1, 1, 0]).argmax(axis=1)
        path: list[int] = likeliest.tolist()
        return beliefs, path if self._is_certain(path, lead, beliefs) else None

    def _unscaled(self, lead: FloatArray) -> Marginals | None:
        """Return messages that are not scaled. None: they leave the range in which nothing is lost."""
        longest, tags = lead.shape
        local = np.empty((longest, 2, tags), np.float32)
        np.exp(lead, out=local[:, 0])
        local[:, 1] = local[::-1, 0]
        message, product = np.empty((longest, 2, tags), np.float32), np.empty((longest, 2, 2 * tags), np.float32)
        # Each direction times both matrices in one product. Of its four parts the first and the last are wanted.
        reach = product.reshape(longest, 4, tags)[:, ::3]
        reach[0] = self._first[:, 0]
        np.multiply(reach[0], local[0], out=message[0])
        steps = zip(message, product[1:], reach[1:], local[1:], message[1:], strict=False)
        with np.errstate(over="ignore", invalid="ignore"):  # the range tells
            for before, both, reached, local_weights, after in steps:
                np.dot(before, self._both_steps, out=both)
                np.multiply(reached, local_weights, out=after)
        peaks = message.max(axis=2)
        if not _PLAIN_RANGE[0] < peaks.min() <= peaks.max() < _PLAIN_RANGE[1]:
            return None
        messages = reach[:, :, None], local[:, :, None], message[:, :, None]
        scale = np.ones((longest, 2, 1), np.float32)
        lengths = np.array([longest], np.int64)
        return Marginals(*messages, scale, lengths, self._start, self._step, self._end)

    def _is_certain(self, path: Sequence[int], lead: FloatArray, beliefs: Marginals) -> bool:
        """Return True if a path of one row has more than half of all probability. See `Marginals.likeliest`."""
        potentials = self._potentials
        weights = list(map(lead.item, range(len(path)), path))
        score = sum(weights) + potentials.start.item(path[0]) + potentials.end.item(path[-1])
        score += sum(map(potentials.transitions.item, path[:-1], path[1:]))
        everything = float(beliefs.message[-1, 0, 0] @ self._end)
        for scale in beliefs.scale[1:, 0, 0].tolist():
            everything *= scale
        is_clipped = min(weights) <= _LEAST_LEAD
        return not is_clipped and everything > 0 and score - math.log(everything) > _LEAST_SCORE
