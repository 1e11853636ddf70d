"""Shared test set-up: the oracle is Keras on JAX, the lightest backend that computes channels_first on a CPU."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tuning database of whoever runs the tests decides nothing here.
os.environ["XDG_DATA_HOME"] = os.path.join(os.path.dirname(__file__), "no-such-folder")  # noqa: PTH118, PTH120
