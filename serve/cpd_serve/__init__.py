"""From a video to labels, and from two engines to a latency verdict. Never imports torch."""

import os

# onnxruntime 1.29 and later otherwise report every model to Microsoft, and keep an identity of the device in its home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
