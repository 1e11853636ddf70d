"""The intermediate representation: stages, shapes, verifier, printer, passes, activations and the reference."""
