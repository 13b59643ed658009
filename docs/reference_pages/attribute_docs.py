"""Descriptions of the fields of a class: the docstrings below them."""

import ast
import inspect
import sys
from functools import cache


@cache
def attribute_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a class and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= _own_docs(base)
    return docs


def _own_docs(cls: type) -> dict[str, str]:
    if not cls.__module__.startswith("palm_"):
        return {}
    module = sys.modules[cls.__module__]
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            return _docs_in(node)
    return {}


def _docs_in(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            docs[field.target.id] = str(below.value.value)
    return docs
