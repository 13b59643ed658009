"""benchmarks/health.py makes as many labels wrong as it says, and no others."""

import numpy as np

from benchmarks.health import flip_classes, flip_spans
from palm_trainer.data.example import Example, LabelledSpan, spans_in


def test_flips_change_five_percent_of_the_classes():
    examples = [Example(str(number), {"intent": "abc"[number % 3]}) for number in range(200)]
    flipped, wrong = flip_classes(examples, np.random.default_rng(13))
    changed = {(row, 0) for row in range(200) if flipped[row].fields != examples[row].fields}
    assert changed == wrong
    assert len(wrong) == 10
    assert flip_classes(examples, np.random.default_rng(13)) == (flipped, wrong)


def test_flips_change_five_percent_of_the_spans():
    spans = (LabelledSpan(0, 1, "a"), LabelledSpan(2, 3, "b"))
    examples = [Example("x y", {"intent": "i", "slots": spans}) for _ in range(50)]
    flipped, wrong = flip_spans(examples, np.random.default_rng(13))
    changed = set()
    for row, example in enumerate(flipped):
        assert set(example.fields) == {"slots"}
        for before, after in zip(spans, spans_in(example.fields["slots"]), strict=True):
            assert (before.start, before.end) == (after.start, after.end)
            if before != after:
                changed.add((row, after.start))
    assert changed == wrong
    assert len(wrong) == 5
