"""Reads Keras layers, in every form they are written down, into programs of the IR."""

from sepcompile.frontend.read import ImportedLayer, Parsed, layer_slots, parse_layer, read_layer

__all__ = ["ImportedLayer", "Parsed", "layer_slots", "parse_layer", "read_layer"]
