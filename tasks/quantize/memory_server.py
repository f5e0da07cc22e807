"""Imported by the server process that `measure_memory` forks from, and by nothing else.

The server ends with the stage, also after kill -9, and has loaded what each form needs.
"""

from importlib import import_module

from tasks.edges.parent_watch import stop_with_parent

stop_with_parent()
for library in ("onnxruntime", "torch"):
    import_module(library)
