"""The option `--resume` of `palm-train run`, with or without the value `auto`."""

import os
from typing import TYPE_CHECKING, Any, Literal

from palm_serve.system.plain_text import plain_message
from palm_serve.system.usage_errors import ProgramCommand
from palm_trainer.errors import ConfigError

if TYPE_CHECKING:  # pydantic takes a while to load, and `--help` does not need it
    from palm_trainer.config.train import TrainConfig

Resume = Literal["always", "auto"]
"""Value of the option. `always` stands for the option without a value."""
_VARIABLE = "PALM_TRAIN_RESUME"


class ResumeCommand(ProgramCommand):
    """A command with `--resume` and `--resume auto`.

    click would take any word that follows for the value, also the configuration of `palm-train run --resume CONFIG`.
    """

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        """Parse the arguments, after each `--resume` has got a value."""
        completed: list[str] = []
        for argument in arguments:
            if completed[-1:] == ["--resume=always"] and argument == "auto":
                completed[-1] = "--resume=auto"
            elif argument == "--resume" and "--" not in completed:
                completed.append("--resume=always")
            else:
                completed.append(argument)
        return super().parse_args(context, completed)


def resume_mode(option: Resume | None, train: "TrainConfig", *, overwrite: bool) -> bool | Literal["auto"]:
    """Return how to resume: as the option says, else the environment variable, else the key `train.resume`.

    Args:
        option: value of `--resume`. None: it was not given.
        train: the section `[train]`.
        overwrite: `--overwrite` was given, which variable and key give way to.

    Raises:
        ConfigError: the variable has another value than `auto`.
    """
    if option is not None:
        return "auto" if option == "auto" else True
    variable = os.environ.get(_VARIABLE, "")
    if variable not in ("", "auto"):
        raise ConfigError(
            f"{_VARIABLE} must be auto, got '{plain_message(variable)}'. Set it so, or remove it from the environment."
        )
    is_automatic = variable == "auto" or train.resume == "auto"
    return "auto" if is_automatic and not overwrite else False
