"""A predictor over HTTP: the queue, the service, the engine under it."""
