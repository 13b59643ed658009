"""The bytes of a request and when it is made, and whether an answer is one."""

import numpy as np
import numpy.typing as npt

from palm_serve.bench.load import Load, Method
from palm_serve.oip import inference_pb2 as oip
from palm_serve.v1 import palm_pb2 as pb

PATHS = {
    Method.PARSE: "/palm_serve.v1.DialogueUnderstanding/Parse",
    Method.BATCH: "/palm_serve.v1.DialogueUnderstanding/ParseBatch",
    Method.OIP: "/inference.GRPCInferenceService/ModelInfer",
}
_PREPARED = 512

Seconds = npt.NDArray[np.float64]


def arrivals(load: Load, rate: float, process: int) -> Seconds:
    """When the calls of one process are to be made, seconds from the beginning of the warm-up: a Poisson process."""
    length, mean = load.warm_up_s + load.duration_s, load.processes / rate
    draw = np.random.default_rng((load.seed, process))
    # Six standard deviations more than what is expected.
    count = length / mean
    times = np.cumsum(draw.exponential(mean, int(count + 6 * count**0.5 + 16)))
    return times[times < length]


def prepare(load: Load, process: int) -> list[bytes]:
    """Requests to send in turn: made beforehand, so that the generator is not what is measured."""
    draw = np.random.default_rng((load.seed, process, 1))
    count = load.batch if load.method is Method.BATCH else 1
    return [
        _request(load, [load.texts[i] for i in draw.integers(len(load.texts), size=count)]) for _ in range(_PREPARED)
    ]


def _request(load: Load, texts: list[str]) -> bytes:
    if load.method is Method.OIP:
        contents = oip.InferTensorContents(bytes_contents=[text.encode() for text in texts])
        tensor = oip.ModelInferRequest.InferInputTensor
        text = tensor(name="text", datatype="BYTES", shape=[len(texts)], contents=contents)
        return bytes(oip.ModelInferRequest(model_name=load.model, inputs=[text]).SerializeToString())
    requests = [pb.ParseRequest(text=text, model=load.model) for text in texts]
    if load.method is Method.BATCH:
        return bytes(pb.ParseBatchRequest(requests=requests).SerializeToString())
    return bytes(requests[0].SerializeToString())


def code_of(method: Method, answer: bytes) -> int:
    """The google.rpc.Code of an answer: that of the first text of a batch that was not answered, else OK."""
    if method is not Method.BATCH:
        return 0
    items = pb.ParseBatchResponse.FromString(answer).items
    return next((item.error.code for item in items if item.HasField("error")), 0)
