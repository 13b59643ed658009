"""PyTriton: a real Triton Inference Server (C++), whose Python backend calls this process. gRPC, Open Inference Protocol."""

import json
import os
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from shared import Answerer, settings

given = settings()


def answers() -> object:
    """The callable of one instance, with an engine of its own."""
    answer = Answerer(given)

    @batch
    def infer(text: np.ndarray) -> dict[str, np.ndarray]:
        found = answer([value.decode() for value in text[:, 0]])
        return {"answer": np.array([[json.dumps(item).encode()] for item in found], dtype=object)}

    return infer


if __name__ == "__main__":
    # Its Python backend looks for libpython: it must be the one of the standard library that it finds.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(
        grpc_address="127.0.0.1", grpc_port=given.port, allow_http=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=[answers() for _ in range(given.workers)],
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=given.rows,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(1000 * given.delay_ms)),
            ),
        )
        triton.serve()
