#!/usr/bin/env python3
"""Check names, docstrings and structure of both packages: rules that ruff does not have.

`make lint` runs it. Each rule has a limit in style_limits.json, the number of places that break it today. The check
fails when a figure rises, and also when it falls until `style.py --update` has recorded the lower figure. So a
figure can only fall. Comprehensions are no fault by themselves: their limit is a density, places per 1,000 lines.
`style.py --list RULE` prints every place that breaks a rule.
"""

import argparse
import ast
import collections
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Path(__file__).with_name("style_limits.json")
PACKAGES = ("palm_trainer", "palm_serve")
GENERATED = re.compile(r"_pb2(_grpc)?\.py$")

# Words that open a clause. A docstring starts with a verb, or with the noun of what a property holds.
OPENERS = frozenset(re.findall(r"\w+", "What Whether Of Who Whom Whose Where As By How That Those When Which Around"))
# Words that say nothing of what a variable holds.
_VAGUE = """
    own one found told given known mine other others kept chosen wanted made held said shown asked apart alone alike
    whole more most least rest seen gone left taken this that it who what where which way ways part parts share foreign
"""
VAGUE = frozenset(re.findall(r"\w+", _VAGUE))
KINDS = frozenset({"classify", "multi_label", "sequence_label", "match", "mrc", "masked_lm"})
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DENSITY = "comprehension"
"""The rule whose limit grows with the code."""
WIDE = 3  # parameters from which a public function describes its arguments


@dataclass(frozen=True)
class Place:
    """A place that breaks a rule."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def docstring_openers(path: str, tree: ast.Module) -> Iterator[Place]:
    """Yield function docstrings that open with a clause word."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring and docstring.split(maxsplit=1)[0].rstrip(",.:;") in OPENERS:
            yield Place(path, node.lineno, f"{node.name}: {docstring.splitlines()[0][:60]}")


def missing_args(path: str, tree: ast.Module) -> Iterator[Place]:
    """Yield public functions of three or more parameters whose docstring has no `Args:` section."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [parameter.arg for parameter in parameters if parameter.arg not in ("self", "cls")]
        if len(names) >= WIDE and "Args:" not in (ast.get_docstring(node) or ""):
            yield Place(path, node.lineno, f"{node.name}({', '.join(names)})")


def vague_names(path: str, tree: ast.Module) -> Iterator[Place]:
    """Yield variables and parameters whose name does not say what they hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
            yield Place(path, node.lineno, node.id)
        elif isinstance(node, ast.arg) and node.arg in VAGUE:
            yield Place(path, node.lineno, node.arg)


def nested_comprehensions(path: str, tree: ast.Module) -> Iterator[Place]:
    """Yield comprehensions that hold another comprehension or a second `for`."""
    for node in ast.walk(tree):
        if not isinstance(node, COMPREHENSIONS):
            continue
        inner = any(isinstance(child, COMPREHENSIONS) for child in ast.walk(node) if child is not node)
        if inner or len(node.generators) > 1:
            yield Place(path, node.lineno, ast.unparse(node)[:80])


def comprehensions(path: str, tree: ast.Module) -> Iterator[Place]:
    """Yield every comprehension: a plain loop is often easier to read."""
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            yield Place(path, node.lineno, ast.unparse(node)[:80])


def kind_comparisons(path: str, tree: ast.Module) -> Iterator[Place]:
    """Yield comparisons with the name of a task kind, which belong into the kind's own object."""
    for node in ast.walk(tree):
        values: list[object] = []
        if isinstance(node, ast.Compare):
            values = [child.value for child in ast.walk(node) if isinstance(child, ast.Constant)]
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            values = [node.value.value]
        if any(value in KINDS for value in values if isinstance(value, str)):
            yield Place(path, getattr(node, "lineno", 0), ast.unparse(node)[:80])


RULES: dict[str, Callable[[str, ast.Module], Iterator[Place]]] = {
    "docstring-opener": docstring_openers,
    "missing-args": missing_args,
    "vague-name": vague_names,
    "nested-comprehension": nested_comprehensions,
    "comprehension": comprehensions,
    "kind-comparison": kind_comparisons,
}


def repeated_classes(trees: dict[str, ast.Module]) -> Iterator[Place]:
    """Yield public classes whose name another file of the same package has, too."""
    for package in PACKAGES:
        places: dict[str, list[Place]] = collections.defaultdict(list)
        for path, tree in trees.items():
            if not path.startswith(f"{package}/"):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(Place(path, node.lineno, node.name))
        for same_name in places.values():
            yield from same_name[1:]


def read_sources(root: Path) -> dict[str, str]:
    """Return the text of every file of both packages by its path below `root`, generated stubs left out."""
    sources = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            if not GENERATED.search(file.name):
                sources[file.relative_to(root).as_posix()] = file.read_text(encoding="utf-8")
    return sources


def find_places(sources: dict[str, str]) -> dict[str, list[Place]]:
    """Return the places of every rule in some files."""
    trees = {path: ast.parse(text) for path, text in sources.items()}
    places: dict[str, list[Place]] = {rule: [] for rule in RULES}
    for path, tree in trees.items():
        for rule, find in RULES.items():
            places[rule] += find(path, tree)
    places["repeated-class"] = list(repeated_classes(trees))
    return places


def compare(places: dict[str, list[Place]], limits: dict[str, float], lines: int) -> list[str]:
    """Return a message for each figure that is not its limit.

    Args:
        places: what breaks each rule.
        limits: places of each rule, or places per 1,000 lines of `DENSITY`.
        lines: lines of all files.
    """
    messages = []
    for rule, broken in places.items():
        limit = limits.get(rule, 0)
        if rule == DENSITY:
            density = 1000 * len(broken) / max(lines, 1)
            if density > limit:
                messages.append(
                    f"{rule}: {density:.1f} places per 1,000 lines, the limit is {limit}. "
                    f"Write some as loops: `.ci/style.py --list {rule}` prints all."
                )
            continue
        if len(broken) > limit:
            messages.append(
                f"{rule}: {len(broken)} places, the limit is {limit}. "
                f"Mend the new ones: `.ci/style.py --list {rule}` prints all."
            )
        elif len(broken) < limit:
            messages.append(
                f"{rule}: {len(broken)} places, the limit is {limit}. "
                "The figure fell: record it with `.ci/style.py --update`."
            )
    return messages


def main(arguments: list[str] | None = None) -> int:
    """Run the check; the exit code is 1 where a figure is not its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to check")
    parser.add_argument("--limits", type=Path, default=LIMITS, help="file of the limits")
    parser.add_argument("--list", metavar="RULE", help="print every place that breaks this rule")
    parser.add_argument("--update", action="store_true", help="record figures that fell; none may rise")
    options = parser.parse_args(arguments)
    sources = read_sources(options.root)
    lines = sum(text.count("\n") for text in sources.values())
    places = find_places(sources)
    if options.list is not None:
        if options.list not in places:
            parser.error(f"--list must be one of {', '.join(places)}, got {options.list}.")
        print(*places[options.list], sep="\n")
        return 0
    limits: dict[str, float] = json.loads(options.limits.read_text(encoding="utf-8"))
    if options.update:
        for rule, broken in places.items():
            if rule != DENSITY:
                limits[rule] = min(len(broken), limits.get(rule, 0))
        options.limits.write_text(json.dumps(limits, indent=2) + "\n", encoding="utf-8")
    messages = compare(places, limits, lines)
    print(*messages, sep="\n", end="\n" if messages else "")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
