"""Runs in the emulated Python: invokes a model of LiteRT once to warm the caches and once counted.

    python guest_litert.py MARKS JOBS      JOBS: a JSON list of {"model", "x", "y", "maps"}, all paths

NumPy and LiteRT only. A line "done" per job tells the driver how far it came.
"""

import ctypes
import json
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def run(marks: ctypes.CDLL, job: dict[str, str]) -> None:
    """One model: its output and the process's memory map go to the job's files."""
    interpreter = Interpreter(model_path=job["model"], num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    x = np.load(job["x"])
    interpreter.set_tensor(source["index"], x.reshape(source["shape"]))
    invoke = interpreter._interpreter.Invoke  # without the checks that Interpreter.invoke does in Python
    pathlib.Path(job["maps"]).write_bytes(pathlib.Path("/proc/self/maps").read_bytes())
    invoke()
    marks.start_counting()
    invoke()
    marks.stop_counting()
    np.save(job["y"], interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def main() -> None:
    """All jobs in turn."""
    marks = ctypes.CDLL(sys.argv[1])
    for job in json.loads(pathlib.Path(sys.argv[2]).read_text()):
        run(marks, job)
        print("done", flush=True)


main()
