"""`tritonclient[grpc]` and the serving extra live in one environment and in one process: our stubs of the protocol keep out of the default pool."""

import subprocess
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OURS = "from palm_serve.v1 import palm_pb2, palm_pb2_grpc; import palm_serve.client, palm_serve.rpc.grpc_server"
THEIRS = "import tritonclient.grpc; import tritonclient.grpc.aio"


def test_both_import(tmp_path: Path) -> None:
    """What touches protobuf is installed; engine and tokenizer, which do not, are left out for speed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [line for line in extras["serve-base"] if line.startswith(("grpcio", "protobuf", "googleapis"))]
    assert wanted
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*command, "tritonclient[grpc]", "pydantic", *wanted], capture_output=True, text=True)
    if installed.returncode and "NewConnectionError" in installed.stderr:
        pytest.skip("pip cannot reach its index")
    assert installed.returncode == 0, installed.stderr
    for code in (f"{OURS}\n{THEIRS}", f"{THEIRS}\n{OURS}"):
        ran = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
