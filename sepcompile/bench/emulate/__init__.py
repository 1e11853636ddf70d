"""Counts what a compiled layer executes on a core that is not at hand, under qemu-user. Counts are no times."""
