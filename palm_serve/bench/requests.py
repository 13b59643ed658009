"""Arrival times, serialized requests, and the status code of a response."""

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
    """Draw the arrival times of one process from a Poisson process.

    Args:
        load: the load, which has a duration, a number of processes and a seed.
        rate: calls per second, of all processes together.
        process: index of the process.

    Returns:
        Rising times in seconds from the beginning of the warm-up.
    """
    total_s = load.warm_up_s + load.duration_s
    mean_s = load.processes / rate
    generator = np.random.default_rng((load.seed, process))
    # Six standard deviations above the expected count.
    expected = total_s / mean_s
    times = np.cumsum(generator.exponential(mean_s, int(expected + 6 * expected**0.5 + 16)))
    return times[times < total_s]


def prepare(load: Load, process: int) -> list[bytes]:
    """Serialize the requests that a process sends in turn. It is done beforehand to keep the generator fast."""
    generator = np.random.default_rng((load.seed, process, 1))
    texts_per_call = load.batch if load.method is Method.BATCH else 1
    requests: list[bytes] = []
    for _ in range(_PREPARED):
        indices = generator.integers(len(load.texts), size=texts_per_call)
        requests.append(_request(load, [load.texts[index] for index in indices]))
    return requests


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


def code_of(method: Method, response: bytes) -> int:
    """Return the google.rpc.Code of a response. A batch has the code of its first text with an error, else OK."""
    if method is not Method.BATCH:
        return 0
    for item in pb.ParseBatchResponse.FromString(response).items:
        if item.HasField("error"):
            return int(item.error.code)
    return 0
