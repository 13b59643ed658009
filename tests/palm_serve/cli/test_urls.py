"""Commands that take bundles by URL."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.cli.settings import as_toml, resolve
from palm_serve.storage.urls import as_url

ROOT = Path(__file__).parents[3]
DIGEST = "ab" * 32


def palm_serve(*arguments: object, cache: Path) -> tuple[int, str, str]:
    """Run a command and return its exit code, standard output and standard error."""
    environment = {"COLUMNS": "200", "XDG_CACHE_HOME": str(cache)}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/demo", "s3://bucket/demo"),
        (Path("s3://bucket/demo"), "s3://bucket/demo"),
        (Path("file:///srv/demo"), "file:///srv/demo"),
        (Path("hf://owner/name@main"), "hf://owner/name@main"),
        (Path("memory://demo"), "memory://demo"),
        (Path("bundles/s3:/demo"), None),
        (Path("s3"), None),
        ("http://host/demo", None),
    ],
)
def test_as_url_knows_urls_by_their_scheme(place: Path | str, url: str | None) -> None:
    assert as_url(place) == url


def test_variable_and_file_take_urls(tmp_path: Path) -> None:
    value = f"a:s3://bucket/b@sha256:{DIGEST}:gs://bucket/c"
    resolved = resolve({}, None, {"PALM_SERVE_BUNDLES": value})
    expected = ("a", f"s3:/bucket/b@sha256:{DIGEST}", "gs:/bucket/c")
    assert tuple(map(str, resolved.options.bundles)) == expected
    assert f'"s3://bucket/b@sha256:{DIGEST}", "gs://bucket/c"]' in as_toml(resolved)
    file = tmp_path / "serve.toml"
    file.write_text('bundles = ["s3://bucket/b", "c"]\nwatch = "s3://bucket/models"\n', encoding="utf-8")
    options = resolve({}, file, {}).options
    assert options.bundles == (Path("s3://bucket/b"), tmp_path / "c")
    assert options.watch == Path("s3://bucket/models")


def test_pushed_bundle_is_checked_by_its_url(tmp_path: Path, tiny_bundle: Path) -> None:
    cache = tmp_path / "cache"
    url = f"file://{tmp_path}/bucket/demo"
    code, out, err = palm_serve("push", tiny_bundle, url, cache=cache)
    assert code == 0, err
    digest = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))["version"]
    assert out == f"palm-serve: pushed tiny: {url}@sha256:{digest}\n"
    assert err.splitlines()[-1].startswith("palm-serve: manifest.json, ")
    code, out, err = palm_serve("check", f"{url}@sha256:{digest}", "--provider", "CPU", cache=cache)
    assert (code, err) == (0, "")
    assert f"sha256:{digest}" in out
    code, out, err = palm_serve("check", f"{url}@sha256:{DIGEST}", cache=cache)
    assert code == 2
    assert f"must have the digest sha256:{DIGEST}, got sha256:{digest}" in err


def test_push_of_a_damaged_bundle_writes_nothing(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "golden.jsonl").write_bytes(b"damaged")
    code, _, err = palm_serve("push", bundle, f"file://{tmp_path}/bucket/demo", cache=tmp_path / "cache")
    assert code == 2
    assert "was changed or damaged" in err
    assert not (tmp_path / "bucket").exists()


def test_push_to_a_path_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    code, _, err = palm_serve("push", tiny_bundle, tmp_path / "copy", cache=tmp_path / "cache")
    assert code == 2
    assert "URL must begin with s3://, gs://, az:// or hf://, got" in err


def test_package_that_lacks_is_named(tmp_path: Path, tiny_bundle: Path) -> None:
    code, _, err = palm_serve("check", "az://container/demo", cache=tmp_path / "cache")
    assert code == 2
    assert "run in a clone of PALM: pip install -c constraints.txt '.[azure]'" in err


def test_hub_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(tmp_path),
            "HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-m", "palm_serve.cli", "check", "hf://owner/name"]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 2
    assert ran.stderr.startswith("palm-serve: hf://owner/name")
    assert "cannot be" in ran.stderr
    assert "Traceback" not in ran.stderr


WATCH = """
import sys

def watch(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] in ("fsspec", "s3fs", "aiohttp", "huggingface_hub"):
        print("IMPORTED", arguments[0], flush=True)
    if event in ("socket.getaddrinfo", "socket.connect", "socket.gethostbyname"):
        print("ASKED", event, arguments, flush=True)

sys.addaudithook(watch)
from palm_serve.cli import main
main()
"""


@pytest.mark.parametrize("command", ["check", "prove"])
def test_local_paths_load_no_network_library(tmp_path: Path, proven_bundle: Path, command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    arguments = [sys.executable, "-c", WATCH, command, str(proven_bundle), "--provider", "CPU"]
    ran = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "IMPORTED" not in ran.stdout
    assert "ASKED" not in ran.stdout
