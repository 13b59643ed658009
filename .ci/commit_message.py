#!/usr/bin/env python3
"""Check a commit message: `area: imperative` in at most 72 characters, an empty line, and a body that says why.

`.pre-commit-config.yaml` installs it as a commit-msg hook: `pre-commit install --hook-type commit-msg`.
"""

import re
import sys
from pathlib import Path

SUBJECT_CHARACTERS = 72
SUBJECT = re.compile(r"[a-z0-9_./, -]+: [a-z`].*[^.]", re.IGNORECASE)
UNCHECKED = ("Merge ", "Revert ", "fixup! ", "squash! ")


def faults(message: str) -> list[str]:
    """Return what is wrong with a commit message, a sentence each; comments of git are left out."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        return ["The message must not be empty."]
    subject = lines[0]
    if subject.startswith(UNCHECKED):
        return []
    messages = []
    if len(subject) > SUBJECT_CHARACTERS:
        messages.append(
            f"The subject must have at most {SUBJECT_CHARACTERS} characters, got {len(subject)}. "
            "Move the details to the body."
        )
    if not SUBJECT.fullmatch(subject):
        messages.append(f"The subject must read `area: imperative` without a full stop, got '{subject}'.")
    if len(lines) > 1 and lines[1].strip():
        messages.append("The second line must be empty.")
    if not any(line.strip() for line in lines[2:]):
        messages.append("The body must say why, got none. Add it after an empty line.")
    return messages


def main() -> int:
    """Check the file that git names; the exit code is 1 where something is wrong."""
    messages = faults(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for message in messages:
        print(message, file=sys.stderr)
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
