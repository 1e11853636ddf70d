"""Shared test set-up: the oracle is Keras on JAX, the lightest backend that computes channels_first on a CPU."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
