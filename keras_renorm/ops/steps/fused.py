"""A step by the backend's own fused batch norm."""

from keras_renorm.ops import backends
from keras_renorm.ops.steps import plain
from keras_renorm.ops.steps.lowerings import Name
from keras_renorm.ops.steps.step import Step, Trained, trained


class Fused:
    """Where the native library does not load, or the backend compiles its own operations."""

    lowering: Name = "fused"

    def fits(self, step: Step) -> bool:
        """Whether the backend's kernel takes the input, on one replica."""
        kernel, x = backends.current().fused, step.arguments.x
        return (
            step.replicas is None
            and kernel is not None
            and kernel.fits(x, step.constants.mask, step.settings)
        )

    def train(self, step: Step) -> Trained:
        """Calls the kernel."""
        kernel = backends.current().fused
        assert kernel is not None
        y, batch = kernel.train(
            step.arguments, step.constants, step.settings, plain.output(step.settings)
        )
        return trained(step, y, batch)
