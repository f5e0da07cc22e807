"""ensemble: how members become one forecast, its intervals, and the two bodies that may be shipped.

Comes in: data/forecasts/<model> and models/fits/<model> of exactly the models listed,
data/features. Goes out: models/challenger/challenger (the ensemble by the combiner that was chosen,
or the best member where none is as good), models/challenger/baseline (the best naive model),
data/reports/ensemble. Promised: a combination and the conformal state at a cutoff use only
forecasts whose y was known by it; combiners are compared on a slice that none of them saw, and the
gate's rows choose nothing.
"""
