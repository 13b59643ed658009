"""The image runs as nobody in particular, whatever is built of it."""

import re
from pathlib import Path

LINES = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8").splitlines()


def stages() -> dict[str, tuple[str, list[str]]]:
    """Name -> what it stands on, and its own instructions."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in LINES:
        if stage := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = stage[2]
            found[name] = (stage[1], [])
        elif name:
            found[name][1].append(line)
    return found


def user(name: str) -> str:
    """Who runs what a stage starts."""
    base, lines = stages()[name]
    named = [line.removeprefix("USER ") for line in lines if line.startswith("USER ")]
    return named[-1] if named else user(base) if base in stages() else "root"


def test_not_as_root() -> None:
    """By number, because Kubernetes' runAsNonRoot refuses a name."""
    assert user("build") == "root"
    for target in ("cpu", "gpu"):
        number = re.fullmatch(r"(\d+):(\d+)", user(target))
        assert number is not None
        assert min(map(int, number.groups())) >= 1000


def test_only_packages_are_copied_into_the_image() -> None:
    """No source tree, so nothing that lay about in it."""
    copied = [line for name in ("runtime", "cpu", "gpu") for line in stages()[name][1] if line.startswith("COPY")]
    assert all(re.fullmatch(r"COPY --from=build-(cpu|gpu) /opt/palm /opt/palm", line) for line in copied)
    assert len(copied) == 2
