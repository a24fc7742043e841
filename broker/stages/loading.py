"""Loading a flow from the file that it is written in, without running it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from broker.stages import pipeline
from broker.stages.pipeline import Pipeline


class NoFlow(Exception):
    """The file holds no flow, or not the one that is wanted."""


def load(place: str) -> Pipeline:
    """The flow at ``FILE`` or ``FILE:NAME``, where `NAME` is a variable; `NoFlow`, or whatever the file raises.

    A `Pipeline.run` in the file does nothing meanwhile, so that a program that ends with it can be loaded too.
    """
    file, _, name = place.partition(":")
    path = Path(file).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NoFlow(f"{file}: no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    with pipeline.loading():
        spec.loader.exec_module(module)
    if name:
        found = [getattr(module, name, None)]
    else:
        found = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    flows = {id(flow): flow for flow in found if isinstance(flow, Pipeline)}
    if len(flows) != 1:
        raise NoFlow(f"{place}: {len(flows) or 'no'} flows in it" + (": say which, as FILE:NAME" if flows else ""))
    return next(iter(flows.values()))
