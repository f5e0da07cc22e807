"""When and where the stages run: Prefect flows that read like the map and decide nothing about
data.
"""
