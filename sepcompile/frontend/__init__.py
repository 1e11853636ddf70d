"""Reads Keras layers, in every form they are written down, into programs of the IR."""
