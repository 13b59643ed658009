"""Descriptions of the server and its models in the Open Inference Protocol, over a real connection."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
Infer = oip.ModelInferRequest
VERSION = "f" * 64
SINGLE = ("intent.label", "intent.confidence", "intent.fallback", "intent.json", "slots.json")
SINGLE += ("topics.label", "topics.confidence", "topics.json")
PAIRED = ("same.label", "same.confidence", "same.score", "same.json", "answer.text", "answer.confidence", "answer.json")


def refused(code: str, call: Callable[..., Any], request: Any) -> grpc.RpcError:
    """Return the error of a call that must fail with this code."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=5)
    assert caught.value.code().name == code, caught.value.details()
    return caught.value


@pytest.fixture
def service(rpc_server: RunningServer) -> stubs.GRPCInferenceServiceStub:
    return stubs.GRPCInferenceServiceStub(rpc_server.channel)


class TestDescriptions:
    def test_ready_follows_state_and_models(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        assert service.ServerLive(oip.ServerLiveRequest()).live
        assert service.ServerReady(oip.ServerReadyRequest()).ready
        assert service.ModelReady(oip.ModelReadyRequest(name="fake", version=VERSION)).ready
        assert not service.ModelReady(oip.ModelReadyRequest(name="nope")).ready
        rpc_server.model.ready = False
        assert not service.ModelReady(oip.ModelReadyRequest(name="fake")).ready
        assert not service.ServerReady(oip.ServerReadyRequest()).ready
        index = oip.RepositoryIndexRequest
        assert [model.state for model in service.RepositoryIndex(index()).models] == ["UNAVAILABLE"]
        assert not service.RepositoryIndex(index(ready=True)).models
        rpc_server.model.ready = True

    def test_server_metadata(self, service: stubs.GRPCInferenceServiceStub) -> None:
        answer = service.ServerMetadata(oip.ServerMetadataRequest())
        assert answer.name == "palm-serve"
        assert answer.version
        assert {"statistics", "model_configuration"} <= {*answer.extensions}

    def test_metadata_matches_the_infer_outputs(self, service: stubs.GRPCInferenceServiceStub) -> None:
        told = service.ModelMetadata(oip.ModelMetadataRequest(name="fake"))
        assert (told.platform, [*told.versions]) == ("onnxruntime_onnx", [VERSION])
        assert [(i.name, i.datatype, [*i.shape]) for i in told.inputs] == [
            ("text", "BYTES", [-1, 1]),
            ("text_pair", "BYTES", [-1, 1]),
        ]
        assert [output.name for output in told.outputs] == [*SINGLE, *PAIRED, "truncated"]
        everything = Infer(outputs=[Infer.InferRequestedOutputTensor(name=output.name) for output in told.outputs])
        for tensor in told.inputs:
            contents = oip.InferTensorContents(bytes_contents=[b"a"])
            everything.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, 1], contents=contents)
        answer = service.ModelInfer(everything)
        assert [(o.name, o.datatype) for o in answer.outputs] == [(o.name, o.datatype) for o in told.outputs]

    def test_model_config_describes_limits(self, service: stubs.GRPCInferenceServiceStub) -> None:
        told = service.ModelConfig(oip.ModelConfigRequest(name="fake")).config
        assert (told.name, told.platform, told.backend, told.max_batch_size) == (
            "fake",
            "onnxruntime_onnx",
            "onnxruntime",
            4,
        )
        assert [(i.name, i.data_type, [*i.dims], i.optional) for i in told.input] == [
            ("text", oip.TYPE_STRING, [1], False),
            ("text_pair", oip.TYPE_STRING, [1], True),
        ]
        assert {output.name: output.data_type for output in told.output}["intent.confidence"] == oip.TYPE_FP32
        assert told.HasField("dynamic_batching")
        assert told.default_model_filename == "model.onnx"
        assert told.parameters["provider"].string_value == "CPU"

    def test_unknown_model_is_not_found(self, service: stubs.GRPCInferenceServiceStub) -> None:
        for call, request in (
            (service.ModelMetadata, oip.ModelMetadataRequest(name="nope")),
            (service.ModelConfig, oip.ModelConfigRequest(name="fake", version="9" * 64)),
            (service.ModelStatistics, oip.ModelStatisticsRequest(name="nope")),
            (service.ModelStatistics, oip.ModelStatisticsRequest(name="fake", version="9" * 64)),
        ):
            assert "loaded: fake" in refused("NOT_FOUND", call, request).details()
        elsewhere = oip.RepositoryIndexRequest(repository_name="else")
        assert "no repository 'else'" in refused("NOT_FOUND", service.RepositoryIndex, elsewhere).details()

    def test_unsupported_extensions_are_unimplemented(self, rpc_server: RunningServer) -> None:
        call = rpc_server.channel.unary_unary("/inference.GRPCInferenceService/SystemSharedMemoryStatus")
        refused("UNIMPLEMENTED", call, b"")


class TestRepository:
    LOAD, UNLOAD = oip.RepositoryModelLoadRequest, oip.RepositoryModelUnloadRequest

    def test_model_control_is_refused_by_default(self, service: stubs.GRPCInferenceServiceStub) -> None:
        for call, request in (
            (service.RepositoryModelLoad, self.LOAD(model_name="fake")),
            (service.RepositoryModelUnload, self.UNLOAD(model_name="fake")),
        ):
            assert "--allow-model-control" in refused("PERMISSION_DENIED", call, request).details()

    def test_repository_load_and_unload(self, make_rpc_server: Callable[..., RunningServer], tmp_path: Path) -> None:
        service = stubs.GRPCInferenceServiceStub(
            make_rpc_server(allow_model_control=True, model_folder=tmp_path).channel
        )
        service.RepositoryModelLoad(self.LOAD(model_name="next"))
        index = oip.RepositoryIndexRequest()
        assert [(m.name, m.state) for m in service.RepositoryIndex(index).models] == [
            ("fake", "READY"),
            ("next", "READY"),
        ]
        theirs = self.UNLOAD(repository_name="next")  # as kserve's message looks on the wire
        theirs.parameters["unload_dependents"].bool_param = False
        service.RepositoryModelUnload(theirs)
        assert [m.name for m in service.RepositoryIndex(index).models] == ["fake"]
        assert (
            "no bundle 'gone'"
            in refused("NOT_FOUND", service.RepositoryModelLoad, self.LOAD(model_name="gone")).details()
        )
        own = self.LOAD(model_name="next")
        own.parameters["config"].string_param = "{}"
        assert "unknown parameter 'config'" in refused("INVALID_ARGUMENT", service.RepositoryModelLoad, own).details()
