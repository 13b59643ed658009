"""The committed stubs are what protoc makes of protos/."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATOR = "1.78.2"
# Clients of the protocol register its names in the default pool.
OWN_POOL = Path("palm_serve/oip/inference_pb2.py")


def test_stubs_are_generated(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is in the extra `dev`")
    if version("grpcio-tools") != GENERATOR:
        pytest.skip(f"stubs are generated with grpcio-tools {GENERATOR}, here is {version('grpcio-tools')}")
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "pyi")]
    subprocess.run([*command, *outputs, *map(str, protos)], check=True)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*")}
    assert Path("palm_serve/v1/palm_pb2.pyi") in made
    for path in made:
        fresh = (tmp_path / path).read_text()
        if path == OWN_POOL:
            fresh = fresh.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
        assert (ROOT / path).read_text() == fresh, f"{path} is stale: run `make protos`"
