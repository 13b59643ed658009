"""Real server processes: changing tokens, logs without texts, read-only file systems."""

import hashlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.client import Client
from palm_serve.errors import InvalidRequest, NotAllowed, Unauthenticated
from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as oip_stubs
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

Process = Any  # of conftest.py, which cannot be imported by name
SECRET = "xylophone"


def entry(name: str, token: str, *scopes: str) -> str:
    return f'[tokens.{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nscopes = {list(scopes)}\n'


def intent(target: str, token: str | None = None) -> str:
    with Client(target, token=token, retries=0) as client:
        return client.parse("play a song").intent.name


def palm_serve(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command and return its exit code and output."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "100", "PALM_TOKEN": "", **environment})
    return result.exit_code, result.output


def test_tokens_are_created_revoked_and_replaced(
    start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Tokens are created by the command, used by both clients, and revoked while the server runs."""
    code, told = palm_serve("token", "new", "web", "--scope", "parse", "--expires", "2999-01-01")
    assert code == 0
    token = told.split("shown only now: ")[1].split()[0]
    file, held = tmp_path / "tokens.toml", tmp_path / "token"
    file.write_text(told[told.index("[tokens.") :] + entry("ops", "other", "read"))
    held.write_text(token + "\n")
    process = start_server(tiny_bundle, "--tokens", file)
    target = process.target()
    assert intent(target, token) == "music"
    with pytest.raises(Unauthenticated, match="asks for a token"):
        intent(target)
    with Client(target, token="other") as ops:
        assert [model.name for model in ops.models()] == ["tiny"]
        with pytest.raises(NotAllowed, match="'ops' must have the scope 'parse', got read"):
            ops.parse("hello")
    for arguments, environment in ((("--token-file", str(held)), {}), ((), {"PALM_TOKEN": token})):
        code, told = palm_serve("call", "play a song", "--target", target, *arguments, **environment)
        assert code == 0, told
        assert "music" in told
    code, told = palm_serve("call", "play a song", "--target", target)
    assert code == 2
    assert "this server asks for a token" in told

    with Client(target, token=token, retries=0) as web:
        assert web.parse("play a song").intent.name == "music"
        file.write_text(entry("ops", "other", "read"))
        with pytest.raises(Unauthenticated, match="revoked"):
            web.parse("play a song")
        file.write_text("[broken")
        process.process.send_signal(signal.SIGHUP)
        with pytest.raises(Unauthenticated):
            web.parse("play a song")
        file.write_text(entry("new", token, "parse"))
        process.process.send_signal(signal.SIGHUP)
        assert web.parse("play a song").intent.name == "music"
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert "the tokens stay as they were" in "".join(process.errors)
    assert token not in "".join(process.errors)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--tokens", "none.toml"), "none.toml cannot be read: No such file"),
        (("--health-needs-token",), "health_needs_token requires tokens"),
    ],
)
def test_invalid_token_options_end_the_start(tiny_bundle: Path, options: tuple[str, ...], match: str) -> None:
    code, told = palm_serve("run", str(tiny_bundle), "--port", "0", *options)
    assert code == 2
    assert match in told
    assert len(told.splitlines()) == 1


def test_tokens_in_plain_text_print_warning(tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(entry("web", "one", "parse"))
    options = ("--port", "0", "--host", "0.0.0.0", "--tokens", str(tmp_path / "tokens.toml"))
    code, told = palm_serve("run", str(tmp_path / "none"), *options)
    assert code == 2
    assert "has no TLS: tokens can be intercepted" in told


def test_health_can_require_a_token(start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path) -> None:
    """The health port answers health checks of anyone, and nothing else."""
    (tmp_path / "tokens.toml").write_text(entry("web", "one", "parse"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = start_server(
        *(tiny_bundle, "--tokens", tmp_path / "tokens.toml", "--health-needs-token", "--health-port", port),
        *("--drain-grace", "1"),
    )
    target = process.target()
    request = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(target) as closed, grpc.insecure_channel(f"127.0.0.1:{port}") as probe:
        with pytest.raises(grpc.RpcError, match="asks for a token"):
            health_pb2_grpc.HealthStub(closed).Check(request)
        health = health_pb2_grpc.HealthStub(probe)
        assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stubs.ModelsStub(probe).ListModels(pb.ListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        watched = health.Watch(request)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        process.process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert process.finish() == 0
    assert process.errors == []


def test_requests_cannot_name_paths(
    start_server: Callable[..., Process], tiny_bundle: Path, make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """A bundle beside the model folder cannot be loaded, and no response names a file of the server."""
    make_tiny_bundle(tmp_path / "outside", name="outside")
    make_tiny_bundle(tmp_path / "folder" / "inside", name="inside")
    (tmp_path / "folder" / "broken").mkdir()
    (tmp_path / "folder" / "broken" / "manifest.json").write_text("{")
    process = start_server(tiny_bundle, "--allow-model-control", "--model-folder", tmp_path / "folder")
    names = (
        "../outside",
        "inside/../../outside",
        str(tmp_path / "outside"),
        "..",
        ".",
        "a\0b",
        "..\\outside",
        "inside\n",
    )
    with grpc.insecure_channel(process.target()) as channel:
        models, infer = stubs.ModelsStub(channel), oip_stubs.GRPCInferenceServiceStub(channel)
        assert models.LoadModel(pb.LoadModelRequest(name="inside")).name == "inside"
        for name in (*names, "broken", "absent"):
            for call, request in (
                (models.LoadModel, pb.LoadModelRequest(name=name)),
                (infer.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name=name)),
                (models.GetModel, pb.GetModelRequest(name=name)),
                (
                    stubs.DialogueUnderstandingStub(channel).Parse,
                    pb.ParseRequest(text="hello", model=name, version=name),
                ),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request)
                told = f"{caught.value.details()}{caught.value.trailing_metadata()}"
                assert caught.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND"), told
                assert str(tmp_path) not in told or name.startswith("/"), told  # but what the client itself said
        assert [model.name for model in models.ListModels(pb.ListModelsRequest()).models] == ["tiny", "inside"]


def ask_everything(target: str) -> None:
    """Send the secret word in every text field, in requests that succeed and that fail."""
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="text", datatype="BYTES", shape=[1], contents=oip.InferTensorContents(bytes_contents=[SECRET.encode()])
    )
    with grpc.insecure_channel(target) as channel:
        dialogue, infer = stubs.DialogueUnderstandingStub(channel), oip_stubs.GRPCInferenceServiceStub(channel)
        predict = stubs.PredictionStub(channel).Predict
        text = pb.ParseRequest(text=f"play {SECRET}")
        dialogue.Parse(text)
        dialogue.ParseBatch(pb.ParseBatchRequest(requests=[text, pb.ParseRequest(text=SECRET * 9_999)]))
        list(dialogue.ParseStream(iter([text, pb.ParseRequest(text=SECRET * 9_999)])))
        predict(pb.PredictRequest(task="sentiment", text=SECRET))
        infer.ModelInfer(oip.ModelInferRequest(model_name="tiny", inputs=[tensor]))
        list(infer.ModelStreamInfer(iter([oip.ModelInferRequest(model_name="tiny", inputs=[tensor])])))
        for call, request in (
            (dialogue.Parse, pb.ParseRequest(text=f"{SECRET} " * 9_999)),
            (predict, pb.PredictRequest(task="sentiment", text=SECRET, text_pair=SECRET)),
            (infer.ModelInfer, oip.ModelInferRequest(model_name="tiny", inputs=[tensor, tensor])),
            (channel.unary_unary("/palm_serve.v1.DialogueUnderstanding/Parse"), SECRET.encode()),
        ):
            with pytest.raises(grpc.RpcError):
                call(request)


@pytest.mark.parametrize("allowed", [False, True])
def test_log_holds_texts_only_with_log_text(
    start_server: Callable[..., Process], tiny_bundle: Path, allowed: bool
) -> None:
    process = start_server(tiny_bundle, "--log-level", "debug", *(["--log-text"] if allowed else []))
    process.wait_for("listening on")
    process.process.send_signal(signal.SIGHUP)  # ends no server, neither while it loads ...
    target = process.target()
    process.process.send_signal(signal.SIGHUP)  # ... nor later
    ask_everything(target)
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    logged = "".join(process.errors + process.lines)
    assert (SECRET in logged) == allowed
    assert "Parse OK in" in logged
    assert "ModelInfer INVALID_ARGUMENT in" in logged
    assert "Traceback" not in logged


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that nobody can write to")
def test_server_runs_without_writable_directory(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    """Home, cache, temporary and working directory are not writable, even for root."""
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), "/proc")
    process = start_server(tiny_bundle, env=folders, cwd="/proc")
    assert intent(process.target()) == "music"
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert process.errors == []


READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro / && exec "$@"', "sh")


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*READ_ONLY, "true"], capture_output=True).returncode != 0,
    reason="this user may not mount",
)
def test_server_runs_on_read_only_root(start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(entry("web", "one", "parse"))
    process = start_server(tiny_bundle, "--tokens", tmp_path / "tokens.toml", before=READ_ONLY)
    assert intent(process.target(), "one") == "music"
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert process.errors == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_server_runs_with_full_disk_for_the_log(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    """Neither its output nor its log can be written, and the server still serves and stops normally."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("/dev/full", "w") as full:
        process = start_server(
            tiny_bundle, "--port", str(port), "--log-level", "debug", "--log-text", stdout=full, stderr=full
        )
    target = f"127.0.0.1:{port}"
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(20)
    with Client(target, timeout_s=30, retries=50) as client:
        for _ in range(200):
            assert client.parse("play a song").intent.name == "music"
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0


def test_options_come_from_file_and_environment(
    start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(f'bundles = ["{tiny_bundle}"]\nmax_text_bytes = 5\nmax_batch_items = 3\nport = 1\n')
    environment = {"PALM_SERVE_CONFIG": str(path), "PALM_SERVE_MAX_TEXT_BYTES": "7", "PALM_SERVE_MAX_BATCH_ITEMS": "2"}
    process = start_server("--max-batch-items", "4", env=environment)
    with Client(process.target(), retries=0) as client:
        with pytest.raises(InvalidRequest, match="must have at most 7 bytes, got 8"):
            client.parse("12345678")
        with pytest.raises(InvalidRequest, match="requests must have at most 4 items, got 5"):
            client.parse_batch(["hello"] * 5)
