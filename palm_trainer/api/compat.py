"""Arguments of PALM's calls that have no effect: accepted in their old places, with one warning for each name."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Unused:
    """PALM's default of an argument, and why the argument has no effect here."""

    default: object
    reason: str


_UNUSED = {
    "convert": _Unused(False, "the format of the weights is detected"),
    "dev_count": _Unused(1, "torchrun starts one process for each device"),
    "do_lower_case": _Unused(False, "answers are cut from the original passage"),
    "is_pairwise": _Unused(False, "a MatchReader gives a pair and its negative as two rows"),
    "learning_rate": _Unused(1e-3, "the CRF trains at the rate of the heads, head_lr of the optimizer"),
    "pred_output_path": _Unused(None, "predict(output_dir) sets where predictions are written"),
    "print_prefix": _Unused("", "readers print nothing"),
    "remove_noanswer": _Unused(False, "windows without the answer train the answer 'none'"),
    "verbose": _Unused(False, "heads print nothing"),
}
_warned: set[str] = set()


def accept_unused(**predecessors: str) -> Callable[[Target], Target]:
    """Accept arguments without effect, so that PALM's calls run unchanged.

    An argument warns once in a process, and only when its value differs from PALM's default.
    A call by position may have to pass the default to reach the next argument.

    Args:
        predecessors: name of an argument without effect -> name of the parameter that it follows.

    Returns:
        A decorator for a function, or for a class, whose `__init__` then accepts the arguments.
    """

    def decorate(target: Target) -> Target:
        if isinstance(target, type):
            target.__init__ = _accepting(target.__init__, predecessors)  # type: ignore[misc]
            return target
        return _accepting(target, predecessors)

    return decorate


def user_stack_level() -> int:
    """Return the `stacklevel` at which a warning of the caller points into the user's code."""
    frame = inspect.currentframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("palm_trainer."):
        frame = frame.f_back
        level += 1
    return level


def _accepting(function: Target, predecessors: Mapping[str, str]) -> Target:
    signature = _full_signature(function, predecessors)
    names = list(signature.parameters)
    positions = sorted((names.index(name) for name in predecessors), reverse=True)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        positional = list(args)
        for position in positions:
            name = names[position]
            if position < len(positional):
                _warn_once(name, positional.pop(position))
            elif name in kwargs:
                _warn_once(name, kwargs.pop(name))
        return function(*positional, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _full_signature(function: Callable[..., Any], predecessors: Mapping[str, str]) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    for name, predecessor in predecessors.items():
        names = [parameter.name for parameter in parameters]
        parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=_UNUSED[name].default)
        parameters.insert(names.index(predecessor) + 1, parameter)
    return signature.replace(parameters=parameters)


def _warn_once(name: str, value: object) -> None:
    unused = _UNUSED[name]
    if value == unused.default or name in _warned:
        return
    _warned.add(name)
    warnings.warn(f"{name} has no effect: {unused.reason}. Leave it out.", UserWarning, stacklevel=user_stack_level())
