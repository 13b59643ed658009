"""Check that an open graph belongs to the manifest of its bundle."""

from palm_serve.bundle.loader import Bundle
from palm_serve.engine.session import OpenEngine
from palm_serve.errors import BundleError

_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
"""Types of outputs that are decoded. Others would be converted, and their answers mean nothing."""


def check_graph(bundle: Bundle, name: str, engine: OpenEngine) -> None:
    """Check that a graph was made for the tasks and the tokenizer of its bundle.

    Args:
        bundle: the bundle.
        name: variant of the graph.
        engine: the open graph.

    Raises:
        BundleError: the digest, the inputs or the outputs differ from the manifest.
    """
    manifest = bundle.manifest
    path = f"{bundle.path}/{manifest.variants[name].file}"
    digest = engine.metadata.get("palm.digest", "(none)")
    if digest != bundle.graph_digest():
        raise BundleError(
            f"{path} was exported for other tasks or another tokenizer: palm.digest is {digest[:12]}, the manifest gives "
            f"{bundle.graph_digest()[:12]} for its tasks and tokenizer.json; export again"
        )
    inputs = {}
    for tensor in manifest.inputs:
        inputs[tensor.name] = f"tensor({tensor.dtype})"
    if engine.inputs != inputs:
        raise BundleError(
            f"{path} takes {_describe(engine.inputs)}, the manifest says {_describe(inputs)}; export again"
        )
    for task_name, task in manifest.tasks.items():
        for output in task.outputs:
            if output not in engine.outputs:
                raise BundleError(
                    f"{path} lacks the output '{output}' (it has: {', '.join(engine.outputs)}); export again"
                )
            if engine.outputs[output] not in _OUTPUT_TYPES:
                raise BundleError(
                    f"{path}: the output '{output}' of the task '{task_name}' must be a tensor of floats, "
                    f"got {engine.outputs[output]}. Export again."
                )


def _describe(inputs: dict[str, str]) -> str:
    return ", ".join(map(" ".join, sorted(inputs.items())))
