"""Settings from the environment."""

import pytest

from tasks.edges.settings import Settings


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_is_as_if_it_were_not_set(name, monkeypatch):
    """As `TIDEMILL_RELEASE= tidemill up` has it."""
    variable = "PREFECT_API_URL" if name == "prefect_api_url" else f"TIDEMILL_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    unset = Settings()
    monkeypatch.setenv(variable, "")
    assert Settings() == unset
