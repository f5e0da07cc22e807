"""Run the stages as Prefect flows, with retries, time limits and results in Prefect's UI.

A flow decides nothing about data.
"""
