"""How far settings go that both a pipeline.yaml and an engine's manifest hold."""

OLDEST_OPSET, NEWEST_OPSET = 18, 25
"""Of ONNX: what torch's exporter writes, and what it can convert that to."""
MAX_BATCH, WORKSPACE_BYTES = 1 << 16, 1 << 40
"""Beyond these TensorRT's numbers overflow."""
