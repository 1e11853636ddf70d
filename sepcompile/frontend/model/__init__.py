"""Reads whole models, and finds the parts of them that can be compiled."""

from sepcompile.frontend.model.model import LayerReport, Model, ModelReport, Unit, read_model, report
from sepcompile.frontend.model.sources import is_model

__all__ = ["LayerReport", "Model", "ModelReport", "Unit", "is_model", "read_model", "report"]
