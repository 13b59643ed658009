"""Share of texts that the demo model refuses: 40 sentences from outside its domain, and the test split of its own data.

    make demo
    python benchmarks/out_of_scope.py [--bundle bundles/demo] [--json FILE]

A text is refused if the server's answer triggers the fallback, for whatever reason. The 40 sentences of texts/out_of_scope.txt were written
apart from those that the model learns with (examples/data/out_of_scope), and nothing is chosen on them.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import ROOT, commit, machine, today

from palm_serve.bundle.loader import load_bundle
from palm_serve.decoding.fallback_policy import judge
from palm_serve.engine.providers import select_engine
from palm_serve.errors import BundleError
from palm_serve.pipeline import Pipeline
from palm_serve.types import Classification, TextRequest, Thresholds

OUTSIDE = ROOT / "benchmarks/texts/out_of_scope.txt"
INSIDE = ROOT / "examples/data/assistant/test.jsonl"


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file: a line each, or the field `text` of JSON lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines


def refusals(pipeline: Pipeline, texts: Sequence[str]) -> list[str]:
    """Return the fallback reason of each text, `none` for those that are accepted."""
    intent = pipeline.bundle.manifest.task_with_role("intent")
    if intent is None:
        sys.exit(f"{pipeline.bundle.path} must have a task with the role intent, got none. Export the demo.")
    limits = pipeline.bundle.manifest.tasks[intent].thresholds
    thresholds = Thresholds(limits.intent_confidence, limits.ambiguity_margin, limits.out_of_scope)
    reasons = []
    for prediction in pipeline.predict([TextRequest(text, (intent,)) for text in texts]):
        answer = prediction.answers[intent]
        assert isinstance(answer, Classification)
        reasons.append(judge(answer, thresholds, unknown_language=prediction.unknown_language).name.lower())
    return reasons


def summary(texts: Sequence[str], reasons: Sequence[str], refused: bool) -> Mapping[str, object]:
    """Return the share of refused texts in per cent, their reasons, and the texts that went the wrong way.

    Args:
        texts: the texts.
        reasons: the fallback reason of each.
        refused: True if all of them should be refused.
    """
    counts = Counter(reasons)
    share = 100 * (1 - counts["none"] / len(texts))
    wrong = [text for text, reason in zip(texts, reasons, strict=True) if (reason != "none") != refused]
    return {"texts": len(texts), "refused": round(share, 2), "reasons": dict(counts), "wrong": wrong}


def main() -> None:
    """Ask the bundle, and print both shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles/demo", help="made by `make demo`")
    parser.add_argument("--outside", type=Path, default=OUTSIDE, help="texts from outside the domain")
    parser.add_argument("--inside", type=Path, default=INSIDE, help="texts of the domain")
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    try:
        bundle = load_bundle(options.bundle)
    except BundleError as error:
        sys.exit(f"{error}\nMake the bundle with `make demo`, or name another with --bundle.")
    pipeline = Pipeline(bundle, select_engine(bundle))
    result: dict[str, object] = {
        "machine": machine(),
        "commit": commit(),
        "date": today(),
        "version": bundle.manifest.version,
    }
    for name, path, refused in (("outside", options.outside, True), ("inside", options.inside, False)):
        texts = read_texts(path)
        figures = summary(texts, refusals(pipeline, texts), refused)
        result[name] = figures
        print(f"{name}: {figures['refused']} % of {figures['texts']} texts refused  {figures['reasons']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
