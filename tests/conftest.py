"""Shared test set-up: the oracle runs on Keras's JAX backend, the lightest one that computes channels_first on a CPU."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
