"""One step of training or of inference, in each way that it can be computed, and the choice."""
