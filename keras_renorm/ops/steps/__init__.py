"""One step of training or of inference, in each way to compute it, and the choice among them."""
