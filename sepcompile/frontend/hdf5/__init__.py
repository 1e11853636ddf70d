"""A reader of the HDF5 files that Keras writes, in Python and NumPy alone.

The HDF5 library has a long record of memory errors on damaged files, and follows links to other files, so it is not
used on files of unknown origin. What is read: groups (symbol tables, compact links), attributes with strings or
numbers, and contiguous or compact datasets of numbers. Links to elsewhere, external storage, virtual and chunked
datasets, and committed types are refused by name. Every offset and size is checked against the bytes that are there,
and the work per file is bounded.
"""

from sepcompile.frontend.hdf5.tree import Dataset, File, Group

__all__ = ["Dataset", "File", "Group"]
