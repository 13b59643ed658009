"""Properties of every method of every service: its scope, and hidden internal errors."""

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as oip_stubs
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
Headers = tuple[tuple[str, str], ...]


def entry(name: str, token: str, scopes: tuple[str, ...] = ("parse",), more: str = "") -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = {list(scopes)}\n{more}\n'


def bearer(token: str) -> Headers:
    return (("authorization", f"Bearer {token}"),)


def code(call: Callable[..., Any], request: Any, token: str = "") -> str:
    """Return the status name of a call, or of a stream's first response."""
    headers = bearer(token) if token else ()
    try:
        answer = call(request, timeout=5, metadata=headers)
        if hasattr(answer, "__next__"):
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


ALL = ("parse", "read", "control", "health")


def methods(channel: grpc.Channel) -> dict[str, list[tuple[Callable[..., Any], Any]]]:
    """Return a call of every method by the scope that it requires."""
    dialogue, models = stubs.DialogueUnderstandingStub(channel), stubs.ModelsStub(channel)
    predict, infer = stubs.PredictionStub(channel), oip_stubs.GRPCInferenceServiceStub(channel)
    text = oip.ModelInferRequest(
        model_name="fake",
        inputs=[
            oip.ModelInferRequest.InferInputTensor(
                name="text", datatype="BYTES", shape=[1], contents=oip.InferTensorContents(bytes_contents=[b"a"])
            )
        ],
    )
    parse = pb.ParseRequest(text="a")
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    connections = channelz_pb2_grpc.ChannelzStub(channel)
    return {
        "parse": [
            (dialogue.Parse, parse),
            (dialogue.ParseBatch, pb.ParseBatchRequest(requests=[parse])),
            (lambda request, **options: dialogue.ParseStream(iter([request]), **options), parse),
            (predict.Predict, pb.PredictRequest(task="intent", text="a")),
            (infer.ModelInfer, text),
            (lambda request, **options: infer.ModelStreamInfer(iter([request]), **options), text),
        ],
        "read": [
            (models.ListModels, pb.ListModelsRequest()),
            (models.GetModel, pb.GetModelRequest()),
            (infer.ServerMetadata, oip.ServerMetadataRequest()),
            (infer.ModelMetadata, oip.ModelMetadataRequest(name="fake")),
            (infer.ModelConfig, oip.ModelConfigRequest(name="fake")),
            (infer.ModelStatistics, oip.ModelStatisticsRequest()),
            (infer.RepositoryIndex, oip.RepositoryIndexRequest()),
            (
                lambda request, **options: reflect(iter([request]), **options),
                reflection_pb2.ServerReflectionRequest(list_services=""),
            ),
            (connections.GetTopChannels, channelz_pb2.GetTopChannelsRequest()),
            (connections.GetServers, channelz_pb2.GetServersRequest()),
            (connections.GetServer, channelz_pb2.GetServerRequest()),
            (connections.GetServerSockets, channelz_pb2.GetServerSocketsRequest()),
            (connections.GetChannel, channelz_pb2.GetChannelRequest()),
            (connections.GetSubchannel, channelz_pb2.GetSubchannelRequest()),
            (connections.GetSocket, channelz_pb2.GetSocketRequest()),
        ],
        "health": [
            (health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest()),
            (health_pb2_grpc.HealthStub(channel).Watch, health_pb2.HealthCheckRequest()),
            (infer.ServerLive, oip.ServerLiveRequest()),
            (infer.ServerReady, oip.ServerReadyRequest()),
            (infer.ModelReady, oip.ModelReadyRequest(name="fake")),
        ],
        "control": [
            (models.LoadModel, pb.LoadModelRequest(name="fake")),
            (models.UnloadModel, pb.UnloadModelRequest(name="none")),
            (infer.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name="fake")),
            (infer.RepositoryModelUnload, oip.RepositoryModelUnloadRequest(model_name="none")),
        ],
    }


@pytest.mark.parametrize("health_needs_token", [False, True])
def test_every_method_requires_its_scope(
    make_rpc_server: Callable[..., RunningServer], tmp_path: Path, health_needs_token: bool
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("".join(entry(scope, scope, (scope,)) for scope in ALL))
    rpc_server = make_rpc_server(
        tokens=path,
        health_needs_token=health_needs_token,
        allow_model_control=True,
        model_folder=tmp_path / "none",
        channelz=True,
    )
    for scope, calls in methods(rpc_server.channel).items():
        open_ = scope == "health" and not health_needs_token
        for call, request in calls:
            assert (code(call, request) == "OK") == open_, request
            assert code(call, request, "other") == ("OK" if open_ else "UNAUTHENTICATED"), request
            for token in ALL:
                got = code(call, request, token)
                if token == scope or open_:
                    assert got in ("OK", "NOT_FOUND"), (request, got)
                else:
                    assert got == "PERMISSION_DENIED", request


def test_all_methods_are_listed_above(rpc_server: RunningServer) -> None:
    """A new method must be added to this list with its scope."""
    listed = sum(len(calls) for calls in methods(rpc_server.channel).values())
    reflect = reflection_pb2_grpc.ServerReflectionStub(rpc_server.channel).ServerReflectionInfo
    names = [
        service.name
        for answer in reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        for service in answer.list_services_response.service
    ]
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(rpc_server.channel))
    assert listed == sum(len(pool.FindServiceByName(name).methods) for name in names)


SECRET = "no such node /srv/private/model.onnx for the text xylophone"


def test_internal_errors_of_all_methods_are_hidden(
    make_rpc_server: Callable[..., RunningServer],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All methods of the models raise an unexpected error."""
    rpc_server = make_rpc_server(allow_model_control=True, model_folder=tmp_path)
    (tmp_path / "fake").mkdir()

    def fail(*arguments: object, **options: object) -> Any:
        raise LookupError(SECRET)

    for name in [
        name
        for name in dir(rpc_server.registry)
        if not name.startswith("_") and callable(getattr(rpc_server.registry, name))
    ]:
        monkeypatch.setattr(rpc_server.registry, name, fail)
    failed = 0
    for calls in methods(rpc_server.channel).values():
        for call, request in calls:
            with caplog.at_level(logging.ERROR, "palm_serve"):
                told = everything_told(call, request)
            assert not re.search(r"private|xylophone|LookupError|Traceback|palm_serve/|\.py", told), told
            failed += "internal error (request id " in told
    assert failed >= 15
    assert SECRET in caplog.text


def everything_told(call: Callable[..., Any], request: Any) -> str:
    """Return all content that reaches the client: message or status, and the metadata."""
    try:
        answer = call(request, timeout=5)
        if hasattr(answer, "__next__"):
            first = next(answer)
            answer.cancel()
            return f"{first}"
    except grpc.RpcError as error:
        return f"{error.details()} {error.initial_metadata()} {error.trailing_metadata()}"
    return f"{answer}"
