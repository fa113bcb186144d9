"""The engines: each runs a Plan on one kind of device and answers for its exact result."""
