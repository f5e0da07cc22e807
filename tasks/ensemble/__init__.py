"""ensemble: combines the members into one forecast with intervals.

Inputs: data/forecasts/<model> and models/fits/<model> of exactly the models listed, data/features.
Outputs: models/challenger/challenger (the ensemble by the combiner that was chosen, or the best
member where none is as good), models/challenger/baseline (the best naive model),
data/reports/ensemble. Promise: a combination and the conformal state at a cutoff use only forecasts
whose y was known by it; combiners are compared on a slice that none of them was fitted on, and the
gate's rows are used for no choice.
"""
