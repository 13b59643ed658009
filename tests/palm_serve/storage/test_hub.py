"""Bundles on the Hub: pushed in one commit, and read back by `hf://` URLs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.palm_serve.storage.hub_double import HubDouble, running_hub

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    with running_hub("hf_of_a_test") as double:
        yield double


def palm_serve(hub: HubDouble, cache: Path, *arguments: object, token: str = "hf_of_a_test") -> tuple[int, str, str]:
    """Run a command and return its exit code, standard output and standard error."""
    variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache / "hf")}
    variables |= {"HF_HUB_DISABLE_XET": "1", "COLUMNS": "200"}  # the double speaks Git LFS, not the protocol of Xet
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "palm_serve.cli", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.slow
def test_pushed_bundle_is_one_commit_and_is_read_back(hub: HubDouble, tiny_bundle: Path, tmp_path: Path) -> None:
    code, out, err = palm_serve(hub, tmp_path, "push", tiny_bundle, "hf://owner/tiny")
    assert code == 0, err
    manifest = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    digest = manifest["version"]
    assert out == f"palm-serve: pushed tiny: hf://owner/tiny@sha256:{digest}\n"
    assert hub.private == {"owner/tiny"}
    assert hub.messages == [f"Push tiny {digest[:12]} with palm-serve"]
    [_, files] = hub.repositories["owner/tiny"]
    assert files == {path.name: path.read_bytes() for path in tiny_bundle.iterdir()}
    assert hub.large, "no file was large enough for Git LFS"

    code, out, err = palm_serve(hub, tmp_path, "check", "hf://owner/tiny", "--provider", "CPU")
    assert (code, err) == (0, "")
    assert f"sha256:{digest}" in out

    files["golden.jsonl"] = b"{}"
    code, _, err = palm_serve(hub, tmp_path / "other", "check", "hf://owner/tiny")
    assert code == 2
    assert "hf://owner/tiny/golden.jsonl was changed or damaged: its digest must be sha256:" in err


def test_refusals_are_one_message(hub: HubDouble, tiny_bundle: Path, tmp_path: Path) -> None:
    code, out, err = palm_serve(hub, tmp_path, "push", tiny_bundle, "hf://owner/tiny", token="hf_wrong")
    assert (code, out) == (2, "")
    assert "hf://owner/tiny cannot be written: access was refused" in err.splitlines()[-1]
    assert hub.repositories == {}
    code, out, err = palm_serve(hub, tmp_path, "check", "hf://owner/absent")
    assert (code, out) == (2, "")
    assert "hf://owner/absent/manifest.json cannot be read" in err
    assert "Traceback" not in err
    assert err.count("\n") == 1
