"""From a checkpoint to ONNX files and engines, each proven equal to the last."""
