"""ensemble: weights, intervals, and the two bodies that may be shipped.

Comes in: data/forecasts/<model> and models/fits/<model> of exactly the models listed, data/features. Goes out: models/challenger/challenger
(the ensemble, or the one member that beat it on the gate's rows), models/challenger/baseline (the best naive model), data/reports/ensemble.
Promised: weights and conformal state at a cutoff use only forecasts whose y was known by it; the gate's rows choose neither weights nor
the best member, they only decide between the two.
"""
