"""The laws for one model: `pytest tests/laws/test_forecasters.py --forecaster my_module:MyForecaster --params '{"k": 3}'`."""

import json

from chosen import CHOSEN


def pytest_addoption(parser):
    parser.addoption(
        "--forecaster", help="put this model alone under the laws: one of FORECASTERS, sklearn:<module>.<Class>, or your own <module>:<Class>"
    )
    parser.addoption("--params", default="{}", help="its parameters as JSON, such that 600 rows are enough for it")


def pytest_configure(config):
    if name := config.getoption("--forecaster", default=None):
        CHOSEN[name] = json.loads(config.getoption("--params"))
