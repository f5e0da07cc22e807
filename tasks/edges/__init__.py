"""The only modules that touch the world: params, settings, artifacts, processes, the feed, the
registry.
"""
