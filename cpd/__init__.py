"""The shared language of all rooms: clips, configuration, locks, manifests and metrics.

Nothing in this package imports torch, DALI, TensorRT or onnxruntime.
"""

__version__ = "0.1.0"
