"""The runtimes behind ``cpd_serve.runner``: onnxruntime and TensorRT, and their buffers on a GPU."""
