"""quantize: is what is served what was scored, and may the nets be served in INT8.

Comes in: models/challenger/challenger, models/fits, data/features. Goes out: models/quantized with
decision.json (INT8 or FP32, the reason, the figures of each net, the parity of every member),
latency.json (the timings behind it) and, only where INT8 was chosen, <net>.onnx. Promised: over the
gate's rows no graph differs from its forecaster by more than MAX_PARITY_SD standard deviations of
z; the bytes of <net>.onnx follow from those of the net.
"""
