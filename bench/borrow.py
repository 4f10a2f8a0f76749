"""Takes another benchmark's functions: `borrow("train/bench.py")`, a path below this folder."""

import importlib.util
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def borrow(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), os.path.join(HERE, path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
