"""From a checkpoint to ONNX files and engines, each proven equal to the last."""

import os

# onnxruntime 1.29 and later otherwise report every model to Microsoft, and keep an identity of the device in its home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
