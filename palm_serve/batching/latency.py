"""How long a batch takes, learned while serving."""

import math

from palm_serve.batching.plan import Costs

_DRIFT = 0.005
"""How far the truth may move from one batch to the next, as a share, where errors cancel out; where they do not, the speed has changed."""
CLIP = 3.0
"""Surprises count for so many standard deviations at most: a pause of the machine is no news about the engine."""
_SPREAD_RATE = 0.1


class LatencyModel:
    """Seconds as `a + b * padded tokens`, a and b at least 0: a Kalman filter over (a, b) that both wander.

    What the sizes seen lately say nothing about stays as it was, however long that lasts (plain forgetting would lose it).
    """

    def __init__(self) -> None:
        self._a = self._b = 0.0
        self.costs = Costs()
        """The estimate; zeros before the first observation."""
        # Of the prediction, for long batches vary by more seconds than short ones.
        self._spread = 0.0
        self._bias = 0.0
        # Variances of a and b, and their covariance.
        self._aa = self._ab = self._bb = 0.0
        self.seen = 0

    @property
    def spread(self) -> float:
        """Mean absolute error, as a share of the prediction."""
        return self._spread

    def predict(self, tokens: int) -> float:
        """Seconds."""
        return self._a + self._b * tokens

    def bound(self, tokens: int) -> float:
        """Seconds that are rarely exceeded."""
        return self.predict(tokens) * (1 + CLIP * self._spread)

    def observe(self, tokens: int, seconds: float) -> None:
        """A batch of so many padded tokens took so long."""
        self._learn(max(tokens, 1), max(seconds, 1e-7))
        self.costs = Costs(self._a, self._b)

    def _learn(self, tokens: int, seconds: float) -> None:
        self.seen += 1
        if self.seen == 1:
            self._a, self._b = seconds / 2, seconds / 2 / tokens
            self._aa, self._ab, self._bb = seconds**2, 0.0, (seconds / tokens) ** 2
            self._spread = 0.25
            return
        scale = max(self.predict(tokens), 1e-7)
        self._wander(scale, tokens)
        noise = (max(self._spread, _DRIFT) * scale) ** 2
        of_a, of_b = self._aa + tokens * self._ab, self._ab + tokens * self._bb
        variance = of_a + tokens * of_b + noise
        most = CLIP * math.sqrt(variance)
        error = max(-most, min(most, seconds - self.predict(tokens)))
        self._a = max(0.0, self._a + of_a / variance * error)
        self._b = max(0.0, self._b + of_b / variance * error)
        self._aa -= of_a * of_a / variance
        self._ab -= of_a * of_b / variance
        self._bb -= of_b * of_b / variance
        self._spread += _SPREAD_RATE * (abs(error) / scale - self._spread)
        self._bias += _SPREAD_RATE * (error / scale - self._bias)

    def _wander(self, scale: float, tokens: int) -> None:
        """The variances grow, up to those of knowing nothing."""
        drift = max(_DRIFT, abs(self._bias) / 4)
        self._aa += (drift * scale) ** 2
        self._bb += (drift * scale / tokens) ** 2
        shrink_a, shrink_b = min(1.0, scale**2 / self._aa), min(1.0, (scale / tokens) ** 2 / self._bb)
        self._aa *= shrink_a
        self._bb *= shrink_b
        self._ab *= math.sqrt(shrink_a * shrink_b)
