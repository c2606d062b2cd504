"""SkipInit: a learnable scalar in place of normalisation."""

import math
from typing import Any, Literal

import keras

from keras_renorm.ops import arguments
from keras_renorm.typing import Tensor

INVERSE_SQRT_DEPTH: Literal["inverse_sqrt_depth"] = "inverse_sqrt_depth"


@keras.saving.register_keras_serializable("keras_renorm")
class SkipInit(keras.layers.Layer):
    """Scales a residual branch by one learnable number, which is 0 or small at first.

    ```
    y = alpha * x
    ```

    Put it at the end of a residual branch, before the addition to the skip path, in a net without
    normalisation. Batch Normalization trains deep residual nets because it scales block l down by
    about 1 / sqrt(l) at initialisation, so the net begins nearly as the identity. alpha does that
    and no more. The rest of the paper's recipe belongs to the net: convolutions with biases, He
    initialisation, ReLU before the convolutions, Dropout before the classifier.

    A gradient reaches the branch only through alpha. At alpha = 0 the branch's weights stand still
    in the first step, and only alpha moves.

    Args:
        initial_value: The first alpha: a number, or `"inverse_sqrt_depth"` for 1 / sqrt(depth), the
            largest value that trains at any depth. Nets of 100 layers fail with 1.
        depth: The number of residual blocks of the net, for `"inverse_sqrt_depth"` only.
        **kwargs: Keras's own layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Floating-point tensor of any shape.

    Returns:
        Tensor of the inputs' shape in the layer's compute dtype. The product is formed in the type
        of `alpha`, float32 under mixed-precision policies. So is the gradient of alpha, a sum over
        all of x.

    Raises:
        TypeError: If an argument has the wrong type, or the inputs are not floating point or
            several.
        ValueError: If an argument is out of range, or `depth` does not fit `initial_value`.

    Example:
        >>> skip = np.random.normal(size=(8, 32, 32, 16))
        >>> branch = keras.layers.Conv2D(16, 3, padding="same")(skip)
        >>> y = skip + keras_renorm.layers.SkipInit()(branch)
        >>> np.allclose(y, skip)  # until it is trained
        True

    Source: De & Smith 2020 (SkipInit).
    """

    def __init__(
        self,
        initial_value: float | Literal["inverse_sqrt_depth"] = 0.0,
        depth: int | None = None,
        **kwargs: Any,
    ) -> None:
        arguments.layer_dtype(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.initial_value = _initial_value(initial_value)
        blocks = "an integer, the number of residual blocks of the net"
        self.depth = arguments.optional_integer("depth", depth, low=1, allowed=blocks)
        self.supports_masking = True
        if (self.depth is None) == (self.initial_value == INVERSE_SQRT_DEPTH):
            raise ValueError(_not_together(initial_value, depth))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates alpha, a scalar.

        Args:
            input_shape: The inputs' shape; not used.
        """
        value = self.initial_value
        if isinstance(value, str):
            assert self.depth is not None
            value = 1 / math.sqrt(self.depth)
        self.alpha = self.add_weight(
            name="alpha",
            shape=(),
            initializer=keras.initializers.Constant(value),
            autocast=False,
        )

    def call(self, inputs: Tensor) -> Tensor:
        """Scales `inputs`; see the class."""
        arguments.one_tensor(inputs)
        inputs = keras.ops.convert_to_tensor(inputs)
        arguments.floating("inputs", inputs)
        wide = arguments.wide(inputs.dtype)
        scaled = keras.ops.cast(inputs, wide) * keras.ops.cast(self.alpha, wide)
        return keras.ops.cast(scaled, inputs.dtype)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Checks symbolic inputs as a call does; returns the output's shape and dtype."""
        arguments.one_tensor(inputs)
        arguments.floating("inputs", inputs)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The inputs' shape.

        Raises:
            TypeError: If `input_shape` is no shape.
        """
        return arguments.shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"initial_value": self.initial_value, "depth": self.depth}
        return super().get_config() | own


def _initial_value(value: Any) -> float | Literal["inverse_sqrt_depth"]:
    """`value` as a finite float, or the one allowed word."""
    if isinstance(value, str):
        if value == INVERSE_SQRT_DEPTH:
            return INVERSE_SQRT_DEPTH
        raise ValueError(
            f"`initial_value` must be a number or {INVERSE_SQRT_DEPTH!r}, received {value!r}. The "
            f"paper's values are 0.0 and {INVERSE_SQRT_DEPTH!r}."
        )
    return arguments.finite("initial_value", value)


def _not_together(initial_value: Any, depth: Any) -> str:
    """Advice for an initial value and a depth that do not belong together."""
    if depth is None:
        return (
            f"`initial_value={INVERSE_SQRT_DEPTH!r}` needs `depth`, the number of residual blocks "
            f"of the net, received depth=None. Write SkipInit({INVERSE_SQRT_DEPTH!r}, depth=9) for "
            "a net of 9 blocks."
        )
    return (
        f"`depth` is for `initial_value={INVERSE_SQRT_DEPTH!r}` only, received initial_value="
        f"{initial_value!r}, depth={depth!r}. Leave depth out, or write "
        f"SkipInit({INVERSE_SQRT_DEPTH!r}, depth={depth!r})."
    )
