"""Makes load: one thin file per backend, over the engine."""
