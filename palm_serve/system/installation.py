"""What messages say on parts of PALM that are not installed."""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra. It runs in a clone, because no package index has PALM.

    Args:
        extra: name of the extra in pyproject.toml.
    """
    return f"run in a clone of PALM: pip install -c constraints.txt '.[{extra}]'"
