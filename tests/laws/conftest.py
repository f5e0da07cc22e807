"""The laws for one model: `pytest tests/laws/test_forecasters.py --forecaster
my_module:MyForecaster --params '{"k": 3}'`."""

import json

from chosen import CHOSEN


def pytest_addoption(parser):
    what = (
        "put this model alone under the laws (or these): one of FORECASTERS, sklearn:<module>.<Class>, or"
        " your own <module>:<Class>"
    )
    parser.addoption("--forecaster", action="append", default=[], help=what)
    parser.addoption(
        "--params", default="{}", help="its parameters as JSON, such that 600 rows are enough for it"
    )


def pytest_configure(config):
    for name in config.getoption("--forecaster", default=[]):
        CHOSEN[name] = json.loads(config.getoption("--params"))
