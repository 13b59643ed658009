"""Out-of-scope text of a suggested configuration: general sentences, where the data is English."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from palm_trainer.data.example import Example

FALSE_REJECTION = 0.02
"""Share of dev that the out-of-scope threshold may refuse."""
ENGLISH_WORDS = frozenset(("the", "and", "what", "my", "how", "you", "are", "with", "for", "this", "would", "have"))
"""Words of most English texts that other languages do not have."""
ENGLISH_SHARE = 0.5
"""Share of texts with one of these words from which data is English. Sets of short requests have 0.69 to 0.89."""


def suggest_out_of_scope(
    table: MutableMapping[str, Any], tasks: Mapping[str, MutableMapping[str, Any]], examples: Sequence[Example]
) -> list[str]:
    """Name the packaged out-of-scope text where it fits, so that the intent has a threshold. Return a remark if it does.

    It fits English data with dev, whose intent is one class.

    Args:
        table: section of the data set, changed in place.
        tasks: sections of the tasks, changed in place.
        examples: training examples.
    """
    intents = []
    for name, task in tasks.items():
        if task.get("role") == "intent" and any(isinstance(example.fields.get(name), str) for example in examples):
            intents.append(name)
    has_dev = "dev" in table or "dev_share" in table
    if not (intents and has_dev and "label_separator" not in table and is_english(examples)):
        return []
    table["out_of_scope"] = "general-en"
    if "test" in table:
        table["out_of_scope_test"] = "general-en-test"
    tasks[intents[0]]["false_rejection"] = FALSE_REJECTION
    return [
        f"out_of_scope: general English sentences choose how text that belongs to no {intents[0]} is detected; "
        f"{FALSE_REJECTION:.0%} of dev may be refused. If your classes cover none of them, "
        'out_of_scope_train = "general-en-train" trains on others, and far more is refused'
    ]


def is_english(examples: Sequence[Example]) -> bool:
    """Return True if common English words stand in enough of the texts."""
    english = sum(not ENGLISH_WORDS.isdisjoint(example.text.lower().split()) for example in examples)
    return english >= ENGLISH_SHARE * len(examples)
