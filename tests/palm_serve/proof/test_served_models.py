"""`GetModel` and `ListModels` tell what was looked at and why one combination was chosen."""

import asyncio

import grpc

from palm_serve.config import Limits
from palm_serve.registry import Registry
from palm_serve.rpc.messages.responses import model_message
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs


def test_model_tells_what_failed_without_texts(machine, proven_bundle, lie_once):
    machine.fake("CUDA", lie=lie_once)

    async def describe() -> pb.Model:
        registry = Registry()
        try:
            return model_message(await registry.load(proven_bundle), Limits())
        finally:
            await registry.close()

    message = asyncio.run(describe())
    assert (message.provider, message.precision) == ("CPU", "fp32")
    cpu, cuda = message.engine_trials
    assert (cpu.variant, cpu.provider, cpu.precision) == ("plain", "CPU", "fp32")
    assert (cpu.outcome, cpu.reason, cpu.chosen) == ("passed", "", True)
    assert (cuda.outcome, cuda.reason, cuda.chosen) == ("failed", "1 of 1296 answers differ", False)
    assert message.engine_reason == "CPU in fp32 (plain) is the only combination that passed the proof"


def test_server_tells_its_engines(proven_bundle, start_server, tmp_path):
    """A real server with what this machine has."""
    server = start_server(proven_bundle, env={"XDG_CACHE_HOME": str(tmp_path)})
    with grpc.insecure_channel(server.target()) as channel:
        (model,) = stubs.ModelsStub(channel).ListModels(pb.ListModelsRequest()).models
    (chosen,) = [trial for trial in model.engine_trials if trial.chosen]
    assert (chosen.provider, chosen.precision) == (model.provider, model.precision)
    assert "passed the proof" in model.engine_reason
    assert list((tmp_path / "palm").glob("proof-*.json"))


def test_earlier_bundle_tells_no_engines(tiny_server):
    with grpc.insecure_channel(tiny_server) as channel:
        model = stubs.ModelsStub(channel).GetModel(pb.GetModelRequest())
    assert model.provider
    assert list(model.engine_trials) == []
    assert model.engine_reason == ""
