"""Compiles HySparse language models ahead of time, and runs them.

>>> import hyc
>>> hyc.compile("model.toml", "model.hyc")
>>> session = hyc.load("model.hyc").session()
>>> for event in session.generate("The kernel"):
...     if event.kind == "text":
...         print(event.text, end="", flush=True)
"""

from ._hyc import (
    Batch,
    Error,
    Event,
    Floats,
    Generation,
    Model,
    Session,
    __version__,
    compile,
    load,
)

__all__ = [
    "Batch",
    "Error",
    "Event",
    "Floats",
    "Generation",
    "Model",
    "Session",
    "__version__",
    "compile",
    "load",
]
