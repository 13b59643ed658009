"""Route support tickets: a small model answers what it is sure of, and the rest goes on to a large language model or a person.

    palm-train run examples/three_files.toml && palm-export runs/three-files --output bundles/three-files
    python examples/ticket_router.py bundles/three-files < tickets.txt

The bundle runs in this process, without a server. A JSON object is printed for each line, and a summary on standard error.
Choose the limits on tickets whose team you know: count how many go on, and how many of the others are wrong.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from palm_serve import Model
from palm_serve.errors import PalmServeError
from palm_serve.v1 import palm_pb2 as pb

LARGE_MODEL = "large_model"


@dataclass(frozen=True)
class Route:
    """Where a ticket goes, and why.

    Args:
        text: the ticket.
        target: a team, or LARGE_MODEL.
        confidence: probability of the team that ranks first, from 0 to 1.
        reason: why it goes on to the large model. Empty: it does not.
        facts: answers of the model's other tasks, such as `urgent`.
    """

    text: str
    target: str
    confidence: float
    reason: str
    facts: dict[str, str]


def route(model: Model, texts: Sequence[str], limits: pb.Thresholds) -> Iterator[Route]:
    """Yield where each text goes.

    Args:
        model: a bundle with a task that has the role `intent`.
        texts: the tickets.
        limits: below or above which the model is not sure.
    """
    for text, answer in zip(texts, model.parse_many(texts, thresholds=limits), strict=True):
        if isinstance(answer, PalmServeError):  # blank, or longer than the model reads
            yield Route(text, LARGE_MODEL, 0.0, str(answer), {})
            continue
        facts = {result.task: result.classification.label.name for result in answer.results}
        reason = pb.Fallback.Reason.Name(answer.fallback.reason).lower() if answer.fallback.triggered else ""
        yield Route(text, LARGE_MODEL if reason else answer.intent.name, answer.intent.confidence, reason, facts)


def main() -> None:
    """Route the lines of standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--confidence", type=float, default=0.7, help="a team with less is not trusted")
    parser.add_argument("--margin", type=float, default=0.2, help="least distance from the first team to the second")
    options = parser.parse_args()
    limits = pb.Thresholds(intent_confidence=options.confidence, ambiguity_margin=options.margin)
    texts = [line.strip() for line in sys.stdin]
    passed_on = 0
    with Model.open(options.bundle) as model:
        for ticket in route(model, texts, limits):
            passed_on += ticket.target == LARGE_MODEL
            print(json.dumps(asdict(ticket), ensure_ascii=False))
    print(f"{passed_on} of {len(texts)} tickets go on to the large model", file=sys.stderr)


if __name__ == "__main__":
    main()
