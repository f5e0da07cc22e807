"""What `pytest tests/laws --forecaster NAME` put under law alone: its name and parameters; empty
without the option."""

CHOSEN: dict[str, dict] = {}
