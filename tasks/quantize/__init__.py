"""Check that each graph forecasts as its forecaster does, and choose the form of each net.

In: models/challenger/challenger, models/fits, data/features. Out: models/quantized with
decision.json (INT8 or FP32, the reason, the figures of each form of each net, the parity of every
member), latency.json (time and memory, which are others at each run) and, only where INT8 was
chosen, <net>.onnx. Over the gate's rows no graph differs from its forecaster by more than
MAX_PARITY_SD standard deviations of z; they choose no form. The same net gives the same bytes of
<net>.onnx.
"""
