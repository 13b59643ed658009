"""Linear-chain CRF inference, exact and vectorised over the batch: Viterbi and forward-backward.

score(tags) = start[tags_0] + sum_t emissions[t, tags_t] + sum_t transitions[tags_{t-1}, tags_t] + end[tags_last]   (Lafferty et al. 2001)

Shapes: emissions [B, L, T] float32, left-aligned; lengths [B] int64; start, end [T]; transitions [T, T], from row to column. A forbidden
transition, start or end is FORBIDDEN or less. A softmax tagger is the same thing with zeros in the place of what was learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from palm_serve.types import FloatArray, Int64Array

FORBIDDEN = -1e4
"""Log-potential of what may not happen; finite, so that arithmetic with it stays finite."""

_CANDIDATES_WORTH_PRUNING = 0.25


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
        return Potentials(self.start * np.float32(factor), self.transitions * np.float32(factor), self.end * np.float32(factor))


class Viterbi:
    """Best paths. Holds what can be computed from the potentials alone.

    Two exact savings for BIO chains, whose `I-x` columns have two legal predecessors at most while all others have many: the former are
    looked up directly; for the latter only predecessors that can still win are compared (a predecessor whose score plus its best
    transition is below another's score plus that one's worst cannot be the best for any column).
    """

    def __init__(self, potentials: Potentials) -> None:
        self._p = potentials
        legal = potentials.transitions > FORBIDDEN / 2
        count = legal.sum(axis=0)
        self._few = np.flatnonzero(count <= 2)
        self._many = np.flatnonzero(count > 2)
        self._few_from = np.array([(np.flatnonzero(legal[:, c]).tolist() * 2 or [0, 0])[:2] for c in self._few], dtype=np.int64).reshape(-1, 2)
        self._few_score = potentials.transitions[self._few_from, self._few[:, None]]  # [F, 2]
        self._many_score = np.ascontiguousarray(potentials.transitions[:, self._many])  # [T, M]
        if len(self._many):
            self._best_out, self._worst_out = self._many_score.max(axis=1), self._many_score.min(axis=1)

    def __call__(self, emissions: FloatArray, lengths: Int64Array) -> list[Int64Array]:
        """Best tag path of each row, int64 [lengths[row]]."""
        order = np.argsort(-lengths, kind="stable")
        emissions, sizes = emissions[order], lengths[order]
        longest = int(sizes[0]) if len(sizes) else 0
        batch, tags = emissions.shape[0], emissions.shape[2]
        back = np.zeros((longest, batch, tags), dtype=np.int32)
        final = np.zeros((batch, tags), dtype=np.float32)
        score = self._p.start + emissions[:, 0] if longest else final
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
                chosen = np.sort(np.argpartition(-reach, wanted - 1, axis=1)[:, :wanted], axis=1)  # [b, K], tag order keeps ties as in the full search
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
    """Scaled forward and backward messages of one batch, float64 [B, L, T]; rows beyond their length hold zeros."""

    forward: npt.NDArray[np.float64]
    backward: npt.NDArray[np.float64]
    local: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    """[B, L]: what each forward message was divided by."""
    step: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]

    def segment(self, row: int, size: int, first: int, tags: Sequence[int], continuing: int | None) -> float:
        """Probability that positions first.. carry exactly `tags` and that the next one is not `continuing` (the segment ends there)."""
        p = float(self.forward[row, first, tags[0]])
        position = first
        for before, tag in zip(tags, tags[1:], strict=False):
            position += 1
            p *= float(self.step[before, tag] * self.local[row, position, tag] / self.scale[row, position])
        if position + 1 == size or continuing is None:
            rest = float(self.backward[row, position, tags[-1]])
        else:
            after = position + 1
            flow = self.step[tags[-1]] * self.local[row, after] * self.backward[row, after] / self.scale[row, after]
            rest = float(flow.sum() - flow[continuing])
        return min(1.0, max(0.0, p * rest))


def marginals(potentials: Potentials, emissions: FloatArray, lengths: Int64Array) -> Marginals:
    """Forward-backward in probability space with scaling (Rabiner 1989, section V.A): two small matrix products per position."""
    batch, longest, tags = emissions.shape
    step = np.exp(potentials.transitions.astype(np.float64))
    start, end = np.exp(potentials.start.astype(np.float64)), np.exp(potentials.end.astype(np.float64))
    local = np.exp((emissions - emissions.max(axis=2, keepdims=True)).astype(np.float64)) if longest else np.zeros((batch, 0, tags))
    forward, backward = np.zeros_like(local), np.zeros_like(local)
    scale = np.ones((batch, longest))
    inside = np.arange(longest)[None, :] < lengths[:, None]  # [B, L]
    for t in range(longest):
        message = (start if t == 0 else forward[:, t - 1] @ step) * local[:, t]
        is_last = (lengths == t + 1)[:, None]
        total = np.where(is_last, message * end, message).sum(axis=1)
        total = np.where(inside[:, t] & (total > 0), total, 1.0)
        scale[:, t] = total
        forward[:, t] = np.where(inside[:, t, None], message / total[:, None], 0.0)
    for t in range(longest - 1, -1, -1):
        is_last = (lengths == t + 1)[:, None]
        if t + 1 < longest:
            onward = (local[:, t + 1] * backward[:, t + 1] / scale[:, t + 1, None]) @ step.T
            backward[:, t] = np.where(is_last, end, np.where(inside[:, t, None], onward, 0.0))
        else:
            backward[:, t] = np.where(is_last, end, 0.0)
    return Marginals(forward, backward, local, scale, step, end)
