"""Batch latency model: predicts how long a batch takes, learned while serving."""

import math

from palm_serve.batching.plan import Costs

_DRIFT = 0.005
"""Relative change of the latency from one batch to the next that the filter expects.

It applies while prediction errors cancel out. A persistent bias means that the speed has changed, and raises it.
"""
_CLIP = 3.0
"""Prediction errors count for at most this many standard deviations: a pause of the machine says nothing of the engine."""
_SPREAD_RATE = 0.1
_LONG_BATCH_TOKENS = 256
"""Tokens of a batch that is as much the tokens' as the run's, if its speed changes."""
MARGIN = 1.5
"""A batch is expected to take at most as many mean errors more than predicted: nineteen of twenty do."""
_USUAL_OVERHEAD = 80
"""Tokens that may cost as much as a run by itself without making it dear. Half of them, if it takes long."""
_LONG_OVERHEAD_S = 0.02
_FASTEST_TOKENS = 64
"""Tokens of the batch by which speeds are compared."""


class LatencyModel:
    """Predicts seconds as `a + b * padded tokens`, with a and b at least 0.

    A Kalman filter over (a, b), both of which drift. It keeps what recent batch sizes say nothing about, however long
    that lasts. Exponential forgetting would lose it.
    """

    def __init__(self) -> None:
        self._a = self._b = 0.0
        self.costs = Costs()
        """The estimate. Zeros before the first observation."""
        self.fastest = Costs()
        """The estimate when the engine was at its fastest."""
        self.overhead = 0.0
        """Seconds of a run by itself, where they surely are more than those of some tokens. Else zero.

        On a machine whose cores are shared, a run waits for each of them again and again, however short it is. Batches of
        one length would be many then, and each of them nearly as slow as one of all lengths.
        """
        # Relative to the prediction, because long batches vary by more seconds than short ones.
        self._spread = 0.0
        self._bias = 0.0
        # Variances of a and b, and their covariance.
        self._aa = self._ab = self._bb = 0.0
        self.observations = 0

    @property
    def spread(self) -> float:
        """Mean absolute error, relative to the prediction."""
        return self._spread

    def predict(self, tokens: int) -> float:
        """Predict the seconds of a batch of `tokens` padded tokens."""
        return self._a + self._b * tokens

    def bound(self, tokens: int) -> float:
        """Return seconds that a batch of `tokens` padded tokens rarely exceeds."""
        return self.predict(tokens) * (1 + MARGIN * self._spread)

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a batch of `tokens` padded tokens that took `seconds`."""
        self._update(max(tokens, 1), max(seconds, 1e-7))
        self.costs = Costs(self._a, self._b)
        self.overhead = self._a if self._is_overhead_large() else 0.0
        if self.observations == 1 or self.predict(_FASTEST_TOKENS) < self.fastest.engine_seconds(_FASTEST_TOKENS):
            self.fastest = self.costs

    def _update(self, tokens: int, seconds: float) -> None:
        self.observations += 1
        if self.observations == 1:
            self._a = seconds / 2
            self._b = seconds / 2 / tokens
            self._aa = seconds**2
            self._ab = 0.0
            self._bb = (seconds / tokens) ** 2
            self._spread = 0.25
            return
        predicted = max(self.predict(tokens), 1e-7)
        self._add_process_noise(predicted, tokens)
        noise = (max(self._spread, _DRIFT) * predicted) ** 2
        gain_a = self._aa + tokens * self._ab
        gain_b = self._ab + tokens * self._bb
        variance = gain_a + tokens * gain_b + noise
        largest_error = _CLIP * math.sqrt(variance)
        error = max(-largest_error, min(largest_error, seconds - self.predict(tokens)))
        self._a = max(0.0, self._a + gain_a / variance * error)
        self._b = max(0.0, self._b + gain_b / variance * error)
        self._aa -= gain_a * gain_a / variance
        self._ab -= gain_a * gain_b / variance
        self._bb -= gain_b * gain_b / variance
        self._spread += _SPREAD_RATE * (abs(error) / predicted - self._spread)
        self._bias += _SPREAD_RATE * (error / predicted - self._bias)

    def _is_overhead_large(self) -> bool:
        """Return True if a run by itself surely costs more than some tokens."""
        tokens = _USUAL_OVERHEAD if self._a < _LONG_OVERHEAD_S else _USUAL_OVERHEAD / 2
        excess = self._a - tokens * self._b
        variance = self._aa - 2 * tokens * self._ab + tokens**2 * self._bb
        return excess > 0 and excess**2 > variance

    def _add_process_noise(self, predicted: float, tokens: int) -> None:
        """Increase the variances by the drift, up to those before the first observation."""
        drift = max(_DRIFT, abs(self._bias) / 4)
        self._aa += (drift * predicted) ** 2
        # A short batch that takes long says that a run costs much. Of its tokens it says little.
        self._bb += (drift * predicted / max(tokens, _LONG_BATCH_TOKENS)) ** 2
        shrink_a = min(1.0, predicted**2 / self._aa)
        shrink_b = min(1.0, (predicted / tokens) ** 2 / self._bb)
        self._aa *= shrink_a
        self._bb *= shrink_b
        self._ab *= math.sqrt(shrink_a * shrink_b)
