"""Answers to whole tables: `Answerer` for one batch of columns, and the parts of `palm-serve batch`. Needs pyarrow."""

from palm_serve.batch.answerer import Answerer

__all__ = ["Answerer"]
