"""Loads and runs artifacts with NumPy and the standard library alone.

Every artifact carries a copy of this folder, so nothing here may import anything else of sepcompile, and the syntax is
that of Python 3.9.
"""
