"""Check that each graph forecasts as its forecaster does, and decide which nets run in INT8.

In: models/challenger/challenger, models/fits, data/features. Out: models/quantized with
decision.json (INT8 or FP32, the reason, the figures of each net, the parity of every member),
latency.json (the timings behind it) and, only where INT8 was chosen, <net>.onnx. Over the gate's
rows no graph differs from its forecaster by more than MAX_PARITY_SD standard deviations of z. The
same net gives the same bytes of <net>.onnx.
"""
