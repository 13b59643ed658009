#!/usr/bin/env python3
"""Compare the public Python API with that of a commit: `make api-check REF=v0.2.0`, without REF the last tag.

It prints each break and ends with exit code 1 where there is one: a name that is gone, a parameter that is gone, has moved or
is required now, another kind of thing, fewer base classes. The sources are read by griffe and never run.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

PUBLIC = (
    "palm_serve",
    "palm_serve.batch",
    "palm_serve.client",
    "palm_serve.errors",
    "palm_trainer",
    "palm_trainer.api.backbone",
    "palm_trainer.api.head",
    "palm_trainer.api.lr_sched",
    "palm_trainer.api.optimizer",
    "palm_trainer.api.reader",
    "palm_trainer.errors",
)
"""Modules whose names users import. `palm_trainer` hands out those of `palm_trainer.api`."""

QUIET = {griffe.BreakageKind.ATTRIBUTE_CHANGED_VALUE, griffe.BreakageKind.RETURN_CHANGED_TYPE}
"""Differences that are no break by themselves: the text of a value, or a type that was written in another way."""


def last_tag(root: Path) -> str:
    """Return the last tag before HEAD.

    Raises:
        SystemExit: there is none.
    """
    command = ["git", "-C", str(root), "describe", "--tags", "--abbrev=0"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit("There is no tag yet. Name a commit: make api-check REF=COMMIT.")
    return done.stdout.strip()


def exported(module: griffe.Module) -> Iterator[str]:
    """Yield the names that a module exports: those of `__all__`, else what it defines under a public name."""
    for name, member in module.members.items():
        defined = not name.startswith("_") and not member.is_alias and not member.is_module
        if defined if module.exports is None else name in module.exports:
            yield name


def target(member: griffe.Object | griffe.Alias) -> griffe.Object | None:
    """Return the definition behind an import, None where it lies outside the package."""
    try:
        return member.final_target if isinstance(member, griffe.Alias) else member
    except (griffe.AliasResolutionError, griffe.CyclicAliasError):
        return None


def breaks(old: griffe.Module, new: griffe.Module) -> Iterator[str]:
    """Yield a line for each break of the public names of a module.

    Args:
        old: the module at the commit.
        new: the module of the working tree.
    """
    # griffe compares the members of two modules. These hold what the modules export, without their submodules.
    before, after = griffe.Module(old.name), griffe.Module(new.name)
    for name in exported(old):
        definition = target(old.members[name])
        if name not in new.members:
            yield f"{old.path}.{name}: removed"
        elif definition is not None and not definition.is_module:
            definition.public = True
            before.members[name] = definition
            after.members[name] = target(new.members[name]) or new.members[name]
    for breakage in griffe.find_breaking_changes(before, after):
        if breakage.kind not in QUIET:
            yield f"{breakage.obj.path}: {breakage.kind.value} ({_detail(breakage)})"


def _detail(breakage: griffe.Breakage) -> str:
    value = breakage.new_value if breakage.old_value is None else breakage.old_value
    return str(getattr(value, "name", value))


def compare(root: Path, ref: str, public: tuple[str, ...] = PUBLIC) -> list[str]:
    """Return a line for each break since a commit.

    Args:
        root: the checkout.
        ref: tag or commit.
        public: names of the modules.
    """
    lines = []
    for package in sorted({name.partition(".")[0] for name in public}):
        old = griffe.load_git(package, ref=ref, repo=root, allow_inspection=False, resolve_aliases=True)
        new = griffe.load(package, search_paths=[root], allow_inspection=False, resolve_aliases=True)
        for name in public:
            if name.partition(".")[0] != package:
                continue
            inner = name.partition(".")[2]
            if inner and _missing(old, inner):
                continue
            if inner and _missing(new, inner):
                lines.append(f"{name}: removed")
                continue
            lines += breaks(old[inner] if inner else old, new[inner] if inner else new)
    return lines


def _missing(package: griffe.Object | griffe.Alias, inner: str) -> bool:
    try:
        return not package[inner].is_module
    except KeyError:
        return True


def main() -> int:
    """Run the check; the exit code is 1 where the API breaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref", nargs="?", help="tag or commit to compare with; default: the last tag")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="checkout to check")
    parser.add_argument("--public", nargs="+", default=PUBLIC, metavar="MODULE", help="modules that are public")
    options = parser.parse_args()
    ref = options.ref or last_tag(options.root)
    lines = compare(options.root, ref, tuple(options.public))
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"{len(lines)} breaks of the public API since {ref}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
