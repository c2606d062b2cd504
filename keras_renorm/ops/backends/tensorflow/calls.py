"""The native library's calls as functions of TensorFlow tensors. None has a gradient of its own.

See `keras_renorm.ops.backends.kernels.StepCalls` and `Passes`.
"""

from collections.abc import Sequence

import tensorflow as tf

from keras_renorm.ops.backends.kernels import Forward
from keras_renorm.ops.backends.tensorflow import runtime, stablehlo
from keras_renorm.ops.maths import passes
from keras_renorm.ops.maths.moments import Moments, rounded
from keras_renorm.ops.maths.operands import Affine, Arguments, Constants, Line, Settings, Sums
from keras_renorm.ops.native import layout, loader

relu_gradient = passes.relu_gradient

Sizes = Sequence[int | stablehlo.Quotient | None]

_ELEMENTS = {
    tf.float16: "f16",
    tf.bfloat16: "bf16",
    tf.float32: "f32",
    tf.float64: "f64",
    tf.bool: "i1",
}


def forward(arguments: Arguments, constants: Constants, settings: Settings) -> Forward:
    """See `keras_renorm.ops.backends.kernels.StepCalls`.

    The rank of `x` and the number of its channels must be known.
    """
    operands = [*arguments, *constants[:4]]
    return Forward(*_call("forward", operands, arguments.x, constants.mask, settings))


def backward(
    dy: tf.Tensor, x: tf.Tensor, statistics: tf.Tensor, mask: tf.Tensor | None, settings: Settings
) -> Arguments:
    """See `keras_renorm.ops.backends.kernels.StepCalls`."""
    return Arguments(*_call("backward", [dy, x, statistics], x, mask, settings))


def moments(x: tf.Tensor, mask: tf.Tensor | None, settings: Settings) -> tuple[Moments, tf.Tensor]:
    """The moments of the positions that count, 0 where none does, and their mean."""
    (found,) = _call("moments", [x], x, mask, settings)
    count, mean, variance, rest = tf.unstack(found, 4)
    batch = rounded(count, mean, rest, variance, wide(x.dtype))
    return batch, batch.mean


def normalize(x: tf.Tensor, affine: Affine, settings: Settings) -> tf.Tensor:
    """`y = ((x - mean) - mean_remainder) * scale + offset`, or its positive part."""
    (y,) = _call("normalize", [x, _pack(affine, wide(x.dtype))], x, None, settings)
    return y


def gradient_sums(
    dy: tf.Tensor, x: tf.Tensor, affine: Affine, mask: tf.Tensor | None, settings: Settings
) -> Sums:
    """The sums of `dy`, and of `dy` times the centred value, `[C]` each."""
    operands = [dy, x, _pack(affine, wide(x.dtype))]
    (sums,) = _call("gradient_sums", operands, x, mask, settings)
    return Sums(*tf.unstack(tf.cast(sums, wide(x.dtype)), 2))


def input_gradient(
    dy: tf.Tensor,
    x: tf.Tensor,
    affine: Affine,
    line: Line,
    mask: tf.Tensor | None,
    settings: Settings,
) -> tf.Tensor:
    """`dx = scale * dy - weight * (bias + (x - mean) * slope)`, and 0 where the weight is 0.

    S1 and S2 are the sums over all m positions of all replicas: bias = scale S1 / m and slope =
    scale S2 / (m sigma_B^2).
    """
    operands = [dy, x, _pack((*affine, *line), wide(x.dtype))]
    (dx,) = _call("input_gradient", operands, x, mask, settings)
    return dx


def wide(dtype: tf.DType) -> tf.DType:
    """Returns the type of the per-channel operands: float64 for float64, else float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def _call(
    name: str,
    operands: Sequence[tf.Tensor],
    x: tf.Tensor,
    mask: tf.Tensor | None,
    settings: Settings,
) -> list[tf.Tensor]:
    """Makes a call of the library. The mask is the last operand, if there is one."""
    runtime.register()
    attributes = layout.attributes(settings)
    own, channels = (x.dtype, x.shape.as_list()), x.shape[settings.axis]
    ghosts = _ghosts(x, settings.ghost_size)
    results = layout.results(name, own, wide(x.dtype), tf.float64, ghosts, channels)
    dtypes = [dtype for dtype, _ in results]
    shapes = [_shape(sizes) for _, sizes in results]
    if mask is not None:
        operands = [*operands, _broadcast(mask, x, settings.axis)]
    operands = [tf.convert_to_tensor(operand) for operand in operands]
    if not runtime.for_xla(*operands):
        return runtime.call_op(name, operands, dtypes, shapes, attributes)
    module = stablehlo.custom_call(
        loader.target(name),
        tuple(_type(operand.dtype, operand.shape.as_list()) for operand in operands),
        tuple(_type(dtype, sizes) for dtype, sizes in results),
        tuple(attributes.items()),
    )
    return runtime.call_module(operands, module, dtypes, shapes)


def _ghosts(x: tf.Tensor, size: int | None) -> int | stablehlo.Quotient:
    """The number of ghost batches of `size` rows. The last one may have fewer rows."""
    if size is None:
        return 1
    return stablehlo.Quotient(size) if x.shape[0] is None else -(-x.shape[0] // size)


def _type(dtype: tf.DType, shape: Sizes) -> stablehlo.Type:
    """Returns a tensor's StableHLO type, as far as its shape is known."""
    sizes = (stablehlo.DYNAMIC if size is None else size for size in shape)
    return stablehlo.Type(_ELEMENTS[dtype], tuple(sizes))


def _shape(sizes: Sizes) -> tf.TensorShape:
    """Returns a result's shape, as far as it is known."""
    return tf.TensorShape([size if isinstance(size, int) else None for size in sizes])


def _pack(vectors: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """Packs per-channel operands, `[C]` each."""
    return tf.stack([tf.cast(vector, dtype) for vector in vectors])


def _broadcast(mask: tf.Tensor, x: tf.Tensor, axis: int) -> tf.Tensor:
    """The mask with a value per element, or per position of `x`."""
    static = x.shape.as_list()
    static[axis] = mask.shape[axis]
    if None in static or mask.shape != static:  # the kernels do not broadcast
        shape = tf.unstack(tf.shape(x))
        shape[axis] = tf.shape(mask)[axis]
        mask = tf.ensure_shape(tf.broadcast_to(mask, shape), static)
    return mask
