"""The import direction is an API: break it and this file names the line.

Every import counts, also one inside a function or under TYPE_CHECKING. Relative imports are banned by ruff.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A unit is a direct child of a package: a module or a sub-package. Each may import the units of the lines above its
# own; units of one line do not import each other.
SERVE_LAYERS = [
    {"errors"},
    {"system"},
    {"storage"},
    {"types", "config", "v1", "oip"},
    {"bundle"},
    {"tokenization", "decoding", "engine", "batching", "values"},
    {"proof"},
    {"pipeline"},
    {"registry"},
    {"rpc", "observability"},
    {"http"},
    {"extras"},
    {"server", "model"},
    {"batch", "ray"},
    {"cli"},
]
TRAINER_LAYERS = [
    {"errors"},
    {"tensors", "config", "tokenization"},
    {"data", "model"},
    {"tasks"},
    {"evaluation", "training"},
    {"report", "export"},
    {"runs"},
    {"api", "compare", "health"},
    {"cli"},
]
# Modules that are a second file of a unit.
PART_OF: dict[str, str] = {}

# What the trainer shares with the server: measured is what is served.
ACROSS = {"errors", "types", "system", "storage", "bundle", "tokenization", "decoding", "engine", "proof", "values"}

# Third-party package -> the only units of palm_serve that import it.
OWNERS = {
    "tokenizers": {"tokenization"},
    "onnxruntime": {"engine"},
    "openvino": {"engine"},
    "grpc": {"rpc", "server", "client", "bench", "v1", "oip", "ray"},
    "prometheus_client": {"observability"},
    "opentelemetry": {"observability"},
    "starlette": {"http"},
    "uvicorn": {"http"},
    "pyarrow": {"batch"},
    "ray": {"batch", "ray"},
    "re2": {"values"},
    "fsspec": {"storage"},
    "huggingface_hub": {"storage"},
    "h11": {"http"},
    "connectrpc": {"http"},
    "torch": set(),
    "transformers": set(),
    "palm_trainer": set(),
}


def _below(layers: list[set[str]]) -> dict[str, set[str]]:
    """Unit -> the units that it may import, when each line may import all lines above it."""
    allowed: dict[str, set[str]] = {}
    for layer in layers:
        lower = set(allowed)
        allowed.update({unit: set(lower) for unit in layer})
    return allowed


def _allowed() -> dict[str, dict[str, set[str]]]:
    serve = _below(SERVE_LAYERS)
    serve["client"] = {"v1", "errors", "system"}
    serve["bench"] = {"v1", "oip", "errors", "system", "client"}
    serve["capacity"] = {"errors", "system", "config"}
    serve["cli"] |= {"client", "bench", "capacity"}
    trainer = _below(TRAINER_LAYERS)
    return {"palm_serve": serve, "palm_trainer": trainer}


ALLOWED = _allowed()


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import; `from a import b` gives `a.b`, whether b is a module or a name in one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _unit(dotted: str) -> str:
    """The unit in `package.unit.anything`, or "" for the package itself."""
    name = dotted.split(".")[1] if "." in dotted else ""
    return PART_OF.get(name, name)


def _fault(package: str, unit: str, target: str) -> str | None:
    """Why a module of package.unit may not import target, or None."""
    top, wanted = target.split(".")[0], _unit(target)
    if top == package:
        if wanted not in ALLOWED[package]:
            return f"imports {target}: no unit of the layers; from inside, import the module that defines the name"
        if wanted != unit and wanted not in ALLOWED[package][unit]:
            return f"imports {target}: {unit} may import only {', '.join(sorted(ALLOWED[package][unit])) or 'nothing'}"
    elif package == "palm_serve" and top in OWNERS and unit not in OWNERS[top]:
        return f"imports {target}: in palm_serve only {', '.join(sorted(OWNERS[top])) or 'nobody'} may import {top}"
    elif package == "palm_trainer" and top == "palm_serve" and wanted not in ACROSS:
        return f"imports {target}: the trainer may import only palm_serve.{{{', '.join(sorted(ACROSS))}}}"
    return None


def _violations(root: Path, package: str) -> list[str]:
    faults = []
    for path in sorted((root / package).rglob("*.py")):
        unit = _unit(".".join(path.relative_to(root).with_suffix("").parts))
        if unit == "__init__":  # both give names of every unit, on first use
            continue
        if unit not in ALLOWED[package]:
            faults.append(f"{path.relative_to(root)}: {unit} is in no layer; give it one in {Path(__file__).name}")
            continue
        for line, target in _imports(path):
            if fault := _fault(package, unit, target):
                faults.append(f"{path.relative_to(root)}:{line} {fault}")
    return faults


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_downwards(package: str) -> None:
    """No module imports what stands above or beside it, even lazily."""
    assert not _violations(ROOT, package), "\n".join(_violations(ROOT, package))


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("palm_serve/pipeline.py", "import torch", "only nobody may import torch"),
        ("palm_serve/pipeline.py", "def f():\n    from tokenizers import Tokenizer", "only tokenization may"),
        ("palm_serve/decoding/crf.py", "from palm_serve import engine", "decoding may import only bundle"),
        ("palm_serve/bundle/loader.py", "import palm_serve.pipeline", "bundle may import only config"),
        (
            "palm_serve/client.py",
            "from palm_serve.types import Encoding",
            "client may import only errors, system, v1",
        ),
        (
            "palm_trainer/training/loop.py",
            "from palm_serve.rpc import status",
            "the trainer may import only palm_serve.{",
        ),
        ("palm_trainer/export/to_onnx.py", "from palm_trainer import api", "export may import only"),
        (
            "palm_trainer/training/loop.py",
            "from palm_trainer import Trainer",
            "import the module that defines the name",
        ),
        ("palm_trainer/plumbing.py", "import os", "plumbing is in no layer"),
    ],
)
def test_checker_finds_each_kind_of_fault(tmp_path: Path, module: str, line: str, complaint: str) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line, encoding="utf-8")
    [fault] = _violations(tmp_path, path.relative_to(tmp_path).parts[0])
    assert module in fault
    assert complaint in fault


def test_server_package_itself_loads_nothing() -> None:
    """`import palm_serve` is free: stubs, grpc and onnxruntime load only where they are used, such as by `Model`."""
    code = (
        "import sys, palm_serve\n"
        "heavy = {'numpy', 'pydantic', 'grpc', 'google.protobuf', 'onnxruntime', 'tokenizers'}\n"
        "loaded = {name for name in sys.modules if name.startswith('palm_serve.') or name in heavy}\n"
        "assert not loaded, loaded\n"
        "palm_serve.Model\n"
        "assert 'palm_serve.model' in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr


def test_metrics_are_pure_numpy() -> None:
    """The measure must not depend on what it measures."""
    tops = {name.split(".")[0] for _, name in _imports(ROOT / "palm_trainer/tasks/metrics.py")}
    assert tops.isdisjoint({"torch", "transformers"})


def test_rpc_imports_without_an_engine() -> None:
    """The gRPC server and the client import where onnxruntime, openvino and tokenizers are absent."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['onnxruntime', 'openvino', 'tokenizers']))\n"
        "import palm_serve.client, palm_serve.rpc.grpc_server"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr


def test_server_imports_without_torch() -> None:
    """Every palm_serve module imports where torch and transformers are absent."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import importlib, pkgutil, palm_serve\n"
        "for m in pkgutil.walk_packages(palm_serve.__path__, 'palm_serve.'):\n"
        "    try:\n"
        "        importlib.import_module(m.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if error.name != 'ray': raise"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
