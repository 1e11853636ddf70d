"""``python <this folder>``: the folder is a package of its own then, whatever it is called and wherever it lies."""

import importlib.util
import os
import sys
from pathlib import Path

# Beside this file lie modules with short names, which are nobody else's.
HERE = sys.path.pop(0)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # this process forks, so it should have no threads

spec = importlib.util.spec_from_file_location("device", Path(HERE, "__init__.py"), submodule_search_locations=[HERE])
assert spec is not None
sys.modules["device"] = importlib.util.module_from_spec(spec)
importlib.import_module("device.requests").main()
