"""NannyML and river on what bench_drift gives them: a line of JSON for each.

`nannyml FILE`: an .npz with `reference` and `current`; seconds of three runs of the univariate
Jensen-Shannon calculator. `adwin FILE`: an .npz with X and y; alarms on the error stream of SEA.
"""

import json
import os
import sys
import time

import numpy as np

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"


def run_nannyml(data):
    import nannyml
    import pandas as pd

    names = [f"c{i}" for i in range(data["reference"].shape[1])]
    reference, current = (pd.DataFrame(data[name], columns=names) for name in ("reference", "current"))
    seconds = []
    for _ in range(3):
        started = time.process_time()
        calculator = nannyml.UnivariateDriftCalculator(
            column_names=names, continuous_methods=["jensen_shannon"], chunk_number=10
        )
        calculator.fit(reference)
        calculator.calculate(current)
        seconds.append(time.process_time() - started)
    return {"cpu_s": sorted(seconds)}


def run_adwin(data):
    from river.drift import ADWIN
    from sklearn.linear_model import LogisticRegression

    x, y = data["X"], data["y"]
    end, alarms, errors = 2000, [], []
    model = LogisticRegression().fit(x[:end], y[:end])
    while end < len(y):
        detector, at = ADWIN(), None
        wrong = (model.predict(x[end:]) != y[end:]).astype(int)
        for i, value in enumerate(wrong):
            detector.update(value)
            if detector.drift_detected:
                at = i + 1
                break
        if at is None:
            errors.append(wrong)
            break
        start, stop = end + at, min(len(y), end + at + 1000)
        alarms.append(start)
        errors.append(wrong[: stop - end])
        model, end = LogisticRegression().fit(x[start:stop], y[start:stop]), stop
    return {"alarms": alarms, "error": float(np.concatenate(errors).mean())}


if __name__ == "__main__":
    run = {"nannyml": run_nannyml, "adwin": run_adwin}[sys.argv[1]]
    print(json.dumps(run(np.load(sys.argv[2]))))
