"""Linear-chain CRF inference, exact and vectorised over the batch: Viterbi and forward-backward.

score(tags) = start[tags_0] + sum_t emissions[t, tags_t] + sum_t transitions[tags_{t-1}, tags_t] + end[tags_last]   (Lafferty et al. 2001)

Shapes: emissions [B, L, T] float32, left-aligned; lengths [B] int64; start, end [T]; transitions [T, T], from row to column. A forbidden
transition, start or end is FORBIDDEN or less. A softmax tagger is the same thing with zeros in the place of what was learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from palm_serve.types import FloatArray, Int64Array

FORBIDDEN = -1e4
"""Log-potential of what may not happen; finite, so that arithmetic with it stays finite."""

_CANDIDATES_WORTH_PRUNING = 0.25

_ROUNDING = 1e-3
"""Margin for float32 sums when a path is called the only best one."""

_LARGEST_LEAD = np.float32(60.0)
"""Emissions further below the best one of their position count as this far below: a probability of 0 that does not underflow."""

_TINY = np.finfo(np.float32).tiny

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
        """BIO rules over `tags`, added to learned potentials (None: zeros): `I-x` only after `B-x` or `I-x`, never first."""
        count = len(tags)
        start, transitions = np.zeros(count, np.float32), np.zeros((count, count), np.float32)
        for column, tag in enumerate(tags):
            if tag.startswith("I-"):
                allowed = {"B-" + tag[2:], tag}
                start[column] = FORBIDDEN
                transitions[[row for row, before in enumerate(tags) if before not in allowed], column] = FORBIDDEN
        end = np.zeros(count, np.float32)
        if learned is not None:
            start, transitions, end = start + learned.start, transitions + learned.transitions, end + learned.end
        return cls(start, transitions, end)

    def scaled(self, factor: float) -> "Potentials":
        """All potentials times `factor` (temperature); forbidden ones stay forbidden for factors down to 0.01."""
        return Potentials(
            self.start * np.float32(factor), self.transitions * np.float32(factor), self.end * np.float32(factor)
        )


class Viterbi:
    """Best paths, exact, with three savings.

    Where emissions are peaked the best tag of each position on its own is the best path, and this can be proven without a search
    (`_undisputed`); that is most utterances of a trained model. The search itself knows that the `I-x` columns of a BIO chain have two legal
    predecessors at most, which are looked up directly; for all others only predecessors that can still win are compared (one whose
    score plus its best transition is below another's score plus that one's worst cannot be the best for any column).
    """

    def __init__(self, potentials: Potentials) -> None:
        self._p = potentials
        transitions = potentials.transitions
        legal = transitions > FORBIDDEN / 2
        count = legal.sum(axis=0)
        self._few = np.flatnonzero(count <= 2)
        self._many = np.flatnonzero(count > 2)
        predecessors = [(np.flatnonzero(legal[:, column]).tolist() * 2 or [0, 0])[:2] for column in self._few]
        self._few_from = np.array(predecessors, dtype=np.int64).reshape(-1, 2)
        self._few_score = transitions[self._few_from, self._few[:, None]]  # [F, 2]
        self._many_score = np.ascontiguousarray(transitions[:, self._many])  # [T, M]
        self._into = np.ascontiguousarray(transitions.T)  # [T to, T from]
        self._tags = np.arange(len(transitions))
        if len(self._many):
            self._best_out, self._worst_out = self._many_score.max(axis=1), self._many_score.min(axis=1)
        both = (transitions.max(initial=FORBIDDEN) - transitions) / 2
        self._gain_right = np.maximum(transitions.max(axis=1, keepdims=True) - transitions, both)
        self._gain_left = np.maximum(transitions.max(axis=0, keepdims=True) - transitions, both)
        self._gain_start, self._gain_end = (
            potentials.start.max() - potentials.start,
            potentials.end.max() - potentials.end,
        )

    def __call__(self, emissions: FloatArray, lengths: Int64Array) -> list[Int64Array]:
        """Best tag path of each row, int64 [lengths[row]]."""
        greedy, proven = self._undisputed(emissions, lengths)
        result = [greedy[row, :size] for row, size in enumerate(lengths.tolist())]
        rest = np.flatnonzero(~proven)
        if len(rest):
            for row, path in zip(rest.tolist(), self._search(emissions[rest], lengths[rest]), strict=True):
                result[row] = path
        return result

    def _undisputed(self, emissions: FloatArray, lengths: Int64Array) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """The best tag of each position on its own [B, L], and for which rows these are certainly the only best path [B].

        Another path loses at least the lead of the best tag over the second at each position where it differs. What it can gain in
        transitions is charged to the differing positions: an edge with one differing end gains at most what the best transition with the
        other end has ahead; with two differing ends it gains at most what the best of all has ahead, half of it charged to each. Where
        every position's lead exceeds what can be charged to it, nothing can be gained.
        """
        batch, longest, tags = emissions.shape
        greedy = emissions.argmax(axis=2)
        if tags == 1 or longest == 0:
            return greedy, np.ones(batch, dtype=np.bool_)
        two = np.partition(emissions, tags - 2, axis=2)
        lead = two[:, :, -1] - two[:, :, -2]
        before, after = greedy[:, :-1], greedy[:, 1:]
        position = np.arange(longest)
        lead[:, 0] -= self._gain_start[greedy[:, 0]]
        lead[:, 1:] -= self._gain_right[before, after]
        last = position == lengths[:, None] - 1
        lead -= np.where(last, self._gain_end[greedy], 0.0)
        lead[:, :-1] -= np.where(last[:, :-1], 0.0, self._gain_left[before, after])
        beyond = position >= lengths[:, None]
        proven: npt.NDArray[np.bool_] = np.all((lead > _ROUNDING) | beyond, axis=1)
        return greedy, proven

    def _search(self, emissions: FloatArray, lengths: Int64Array) -> list[Int64Array]:
        """Best paths by dynamic programming, position by position."""
        order = np.argsort(-lengths, kind="stable")
        emissions, sizes = emissions[order], lengths[order]
        longest = int(sizes[0])
        batch, tags = emissions.shape[0], emissions.shape[2]
        back = np.zeros((longest, batch, tags), dtype=np.int32)
        final = np.zeros((batch, tags), dtype=np.float32)
        score = self._p.start + emissions[:, 0]
        for t in range(longest):
            active = int((sizes > t).sum())
            if t:
                score = self._step(score[:active], back[t, :active]) + emissions[:active, t]
            done = np.flatnonzero(sizes[:active] == t + 1)
            final[done] = score[done] + self._p.end
        paths = _trace(back, final.argmax(axis=1), sizes)
        result: list[Int64Array] = [np.zeros(0, np.int64)] * batch
        for row, path in zip(order.tolist(), paths, strict=True):
            result[row] = path
        return result

    def _step(self, score: FloatArray, back: npt.NDArray[np.int32]) -> FloatArray:
        """Scores after one transition [b, T]; writes the predecessor of each tag into `back` [b, T]."""
        if len(score) == 1:  # one utterance: choosing what to compare would cost more than comparing all
            paths = score[0] + self._into
            back[0] = best = paths.argmax(axis=1)
            reached: FloatArray = paths[self._tags, best]
            return reached[None]
        out = np.empty_like(score)
        if len(self._few):
            pair = score[:, self._few_from] + self._few_score  # [b, F, 2]
            second = pair[:, :, 1] > pair[:, :, 0]
            out[:, self._few] = np.where(second, pair[:, :, 1], pair[:, :, 0])
            back[:, self._few] = np.where(second, self._few_from[:, 1], self._few_from[:, 0])
        if len(self._many):
            reach = score + self._best_out
            wanted = int((reach >= (score + self._worst_out).max(axis=1, keepdims=True)).sum(axis=1).max())
            if wanted <= score.shape[1] * _CANDIDATES_WORTH_PRUNING:
                chosen = np.sort(
                    np.argpartition(-reach, wanted - 1, axis=1)[:, :wanted], axis=1
                )  # [b, K], tag order keeps ties as in the full search
                paths = np.take_along_axis(score, chosen, axis=1)[:, :, None] + self._many_score[chosen]  # [b, K, M]
                best = paths.argmax(axis=1)
                back[:, self._many] = np.take_along_axis(chosen, best, axis=1)
            else:
                paths = score[:, :, None] + self._many_score  # [b, T, M]
                best = paths.argmax(axis=1)
                back[:, self._many] = best
            out[:, self._many] = np.take_along_axis(paths, best[:, None, :], axis=1)[:, 0]
        return out


def _trace(back: npt.NDArray[np.int32], last: Int64Array, sizes: Int64Array) -> list[Int64Array]:
    """Follows the predecessors from the last tag of each row (rows sorted by falling size)."""
    longest, batch = back.shape[:2]
    paths = np.zeros((batch, max(longest, 1)), dtype=np.int64)
    current = last.astype(np.int64)
    for t in range(longest - 1, -1, -1):
        active = int((sizes > t).sum())
        if t + 1 < longest:
            moved = int((sizes > t + 1).sum())
            current[:moved] = back[t + 1, np.arange(moved), current[:moved]]
        paths[:active, t] = current[:active]
    return [paths[row, :size] for row, size in enumerate(sizes.tolist())]


@dataclass(frozen=True)
class Marginals:
    """Messages of one batch, float32 [L, 2, B, T]: [:, 0] from the first position on, [:, 1] from a row's last position back.

    `reach` is what leads to a tag, before its emission. Every message is scaled on its own to a sum of 1, so that none over- or underflows.
    What lies beyond a row's length is undefined.
    """

    reach: FloatArray
    local: FloatArray
    scale: FloatArray
    """[L, 2, B]: what each message was divided by."""
    step: FloatArray
    end: FloatArray

    def segment(self, row: int, size: int, first: int, tags: Sequence[int], continuing: int | None) -> float:
        """Probability that positions first.. carry exactly `tags` and the next is not `continuing` (the segment ends there)."""
        p = float(self.reach[first, 0, row, tags[0]] * self.local[first, 0, row, tags[0]] / self.scale[first, 0, row])
        position = first
        for before, tag in pairwise(tags):
            position += 1
            p *= float(self.step[before, tag] * self.local[position, 0, row, tag] / self.scale[position, 0, row])
        if position + 1 < size:
            after = size - 2 - position
            onward = self.reach[after, 1, row] * self.local[after, 1, row]
            flow = self.step[tags[-1]] * onward
            if continuing is not None:
                flow[continuing] = 0.0
            p, everything = p * float(flow.sum()), float(self.reach[position + 1, 0, row] @ onward)
        else:
            message = self.reach[position, 0, row] * self.local[position, 0, row] / self.scale[position, 0, row]
            p, everything = p * float(self.end[tags[-1]]), float(message @ self.end)
        return min(1.0, p / everything) if everything > 0 else 0.0


class ForwardBackward:
    """Forward-backward in probability space with scaling (Rabiner 1989, section V.A). Holds the exponentials.

    Both directions run in one loop: backward is forward over the reversed row with the transposed transitions.

    The matrix products are cut into stacks so small that BLAS runs each in the calling thread: its own threads would fight with those of
    the inference engine, and cost up to a hundred times what they save.
    """

    def __init__(self, potentials: Potentials) -> None:
        self._step = np.exp(potentials.transitions)
        self._steps = np.stack([self._step, self._step.T])[:, None]  # [2, 1, T, T]
        self._end = np.exp(potentials.end)
        self._first = np.stack([np.exp(potentials.start), self._end])[:, None]
        # Two rows at least: a single one is a matrix-vector product, whose threshold is far lower.
        self._stack = min(max(_BLAS_SINGLE_THREAD // max(self._step.size, 1), 2), 64)

    def __call__(self, emissions: FloatArray, lengths: Int64Array) -> Marginals:
        """Messages for emissions [B, L, T] and lengths [B]."""
        batch, longest, tags = emissions.shape
        stacks = -(-batch // self._stack)
        rows = max(-(-batch // max(stacks, 1)), 2)
        shape = (longest, 2, stacks * rows, tags)
        local = np.zeros(shape, np.float32)
        lead = np.maximum(emissions - emissions.max(axis=2, keepdims=True), -_LARGEST_LEAD)
        np.exp(lead.transpose(1, 0, 2), out=local[:, 0, :batch])
        reverse = np.maximum(lengths - 1 - np.arange(longest)[:, None], 0)  # [L, B]
        local[:, 1, :batch] = local[reverse, 0, np.arange(batch)]
        reach, scale = np.empty_like(local), np.empty(shape[:3], np.float32)
        reach[:1] = self._first
        message = np.empty(shape[1:], np.float32)
        stacked = message.reshape(2, stacks, rows, tags)
        for t in range(longest):
            if t:
                np.matmul(stacked, self._steps, out=reach[t].reshape(stacked.shape))
            np.multiply(reach[t], local[t], out=message)
            total = np.add.reduce(message, axis=2, out=scale[t])
            np.maximum(total, _TINY, out=total)  # nothing legal is left: probabilities of 0, not NaN
            np.divide(message, total[:, :, None], out=message)
        return Marginals(reach, local, scale, self._step, self._end)
