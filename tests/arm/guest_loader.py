"""Runs in the emulated Python: the artifacts' own loader on an Arm core, with NumPy alone.

    python guest_loader.py JOBS      JOBS: JSON of {"folder", "expected", "layers", "foreign"}

``folder`` holds the artifacts and each layer's ``<name>.x.npy``; results go to ``<name>.y<threads>.npy`` beside them.
``expected`` is the variant that this core must get (None: none of them), ``foreign`` those that it must refuse. The
last line of output is JSON.
"""

import importlib
import json
import pathlib
import sys

import numpy as np

job = json.loads(pathlib.Path(sys.argv[1]).read_text())
folder = pathlib.Path(job["folder"])
sys.path.insert(0, str(folder))
report = {"numpy": np.__version__, "refused": {}, "selftest": {}}

for name in job["layers"]:
    module = importlib.import_module(name)
    if job["expected"] is None:
        try:
            module.load()
        except Exception as error:
            report["refused"]["all"] = f"{type(error).__name__}: {error}"
        continue
    x = np.load(folder / f"{name}.x.npy")
    for threads in (1, 3):
        layer = module.load(threads=threads)
        assert layer.variant == job["expected"], (layer.variant, job["expected"])
        y = layer(x)
        np.save(folder / f"{name}.y{threads}.npy", y)
        out = np.full_like(y, np.nan)
        assert layer(np.ascontiguousarray(x[..., ::-1])[..., ::-1], out=out) is out
        assert np.array_equal(out, y), "a strided input or out= changes the result"
        assert all(np.array_equal(layer(x[i : i + 1])[0], y[i]) for i in range(len(x))), "a batch changes the result"
    report["selftest"][name] = module.load(selftest=True).selftest().passed

module = importlib.import_module(job["layers"][0])
for foreign in job["foreign"]:
    try:
        module.load(variant=foreign)
    except Exception as error:
        report["refused"][foreign] = f"{type(error).__name__}: {error}"
loaded = [name for name in ("tvm", "sepcompile", "ziglang") if name in sys.modules]
assert not loaded, loaded
print(json.dumps(report))
