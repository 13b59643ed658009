"""The process of the resolvers: reads questions from its standard input and answers each on its standard output."""

import os
import sys
from typing import BinaryIO

from palm_serve.values.libraries import Libraries
from palm_serve.values.question import FAILED, READY, UNKNOWN, Question


def main() -> None:
    """Answer questions until the input ends, which it does when the server ends."""
    # Libraries print when they are loaded. Only answers may reach the pipe.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    libraries = Libraries()
    answers.write(READY)
    serve(libraries, sys.stdin.buffer, answers)


def serve(libraries: Libraries, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer each line of `questions`.

    Args:
        libraries: the libraries.
        questions: one question a line.
        answers: gets one line for each question.
    """
    for line in questions:
        try:
            reading = libraries.read(Question.from_line(line))
        except Exception:  # the libraries raise errors of every kind for values that they cannot read
            answers.write(FAILED)
            continue
        answers.write(UNKNOWN if reading is None else reading.to_line())


if __name__ == "__main__":
    main()
