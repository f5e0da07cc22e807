"""When and where the stages run: Prefect flows that decide nothing about data."""
