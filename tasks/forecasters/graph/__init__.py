"""One formula for predict and ONNX: the numpy computation is also written as a graph."""
