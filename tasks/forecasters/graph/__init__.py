"""One formula for predict and ONNX: what is computed in numpy is written as a graph."""
