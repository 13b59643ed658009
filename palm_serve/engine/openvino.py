"""The OpenVINO plugin of ONNX Runtime (package `onnxruntime-ep-openvino`), where it is installed and knows the processor."""

import functools
import logging
from typing import Any

import onnxruntime as ort

log = logging.getLogger(__name__)

_REGISTRATION = "palm.openvino"


@functools.cache
def openvino_device() -> Any | None:
    """The plugin's CPU device, or None. Release 1.8 of the plugin claims Intel processors only. Registers the plugin once per process."""
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        return None
    try:
        ort.register_execution_provider_library(_REGISTRATION, plugin.get_library_path())
        found = ort.get_ep_devices()
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        log.warning("the OpenVINO plugin cannot be used: %s", error)
        return None
    return next(
        (d for d in found if d.ep_name == plugin.get_ep_name() and d.ep_metadata.get("ov_device") == "CPU"), None
    )
