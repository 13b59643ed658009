"""Scripts that a model reads, for the fallback on text in an unknown language."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tokenizers import Tokenizer

from palm_serve.tokenization import TextTokenizer
from palm_serve.tokenization.scripts import is_unknown_language, script_of
from palm_trainer.data.example import Example
from palm_trainer.data.pieces import is_ideograph
from palm_trainer.model.multi_task import TrainedModel

TRAINED_SHARE = 0.001
"""Share of the letters of the training text from which the model has learnt to read their script."""
VOCABULARY_PIECES = 200
"""Pieces with several letters of a script from which a pretrained vocabulary reads it. That of BERT has 8 of Cyrillic."""
VOCABULARY_IDEOGRAPHS = 2000
"""Chinese characters from which a pretrained vocabulary reads Chinese. The English one of BERT has 244, the Chinese one 7,322."""
REFUSED_LIMIT = 0.001
"""Share of the training texts that may be refused. Where more would be, there is no check."""
_TEXTS = 20_000
"""Training texts, at most, that are looked at."""


def with_scripts(trained: TrainedModel, task: str, train: Sequence[Example]) -> TrainedModel:
    """Return the model with the scripts that it reads among the thresholds of a task.

    It reads the scripts of its training text and those that its vocabulary has words of. There are none, and so no check,
    if it would refuse training texts.

    Args:
        trained: the model.
        task: task name.
        train: the task's training examples.
    """
    if not train:
        return trained
    step = max(1, len(train) // _TEXTS)
    texts = [example.text for example in train[::step]]
    scripts = sorted(_scripts_of_texts(texts) | _scripts_of_vocabulary(trained.tokenizer_json))
    tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
    refused = 0
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        refused += is_unknown_language(text, encoding, tokenizer.unknown_id, scripts)
    if refused > REFUSED_LIMIT * len(texts):
        scripts = []
    info = trained.tasks[task]
    thresholds = info.thresholds.model_copy(update={"scripts": tuple(scripts)})
    return replace(trained, tasks={**trained.tasks, task: info.model_copy(update={"thresholds": thresholds})})


def _scripts_of_texts(texts: Sequence[str]) -> set[str]:
    """Return the scripts that have their share of the letters of texts."""
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(map(script_of, text))
    letters.pop("", None)
    return {script for script, count in letters.items() if count >= TRAINED_SHARE * letters.total()}


def _scripts_of_vocabulary(tokenizer_json: str) -> set[str]:
    """Return the scripts that a vocabulary has many words of, or Chinese characters."""
    pieces: Counter[str] = Counter()
    ideographs: set[str] = set()
    for piece in _readable_pieces(tokenizer_json):
        letters = Counter(map(script_of, piece))
        letters.pop("", None)
        ideographs.update(filter(is_ideograph, piece))
        pieces.update(script for script, count in letters.items() if count > 1)
    scripts = {script for script, count in pieces.items() if count >= VOCABULARY_PIECES}
    if len(ideographs) >= VOCABULARY_IDEOGRAPHS:
        scripts.add("cjk")
    return scripts


def _readable_pieces(tokenizer_json: str) -> list[str]:
    """Return the pieces of a vocabulary as they stand in texts. Bytes of byte-level vocabularies become characters."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    pieces = list(tokenizer.get_vocab(with_added_tokens=False))
    decoder = json.loads(tokenizer_json).get("decoder") or {}
    if "ByteLevel" in json.dumps(decoder):
        return [tokenizer.decoder.decode([piece]) for piece in pieces]
    return pieces
