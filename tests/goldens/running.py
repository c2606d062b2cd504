"""Runs a case on the backend in use: in a mode, in a dtype."""

import contextlib

import keras
import numpy as np

from goldens import write

#: The dtypes that a layer is given. Its statistics are float32 or wider.
POLICIES = {
    "float16": "mixed_float16",
    "bfloat16": "mixed_bfloat16",
    "float32": "float32",
    "float64": "float64",
}
#: Largest error, as a share of the largest value of a result or of 1: a rounding of the result in
#: the half types, and what sums of some 20 values leave in the others.
TOLERANCES = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 2e-6, "float64": 1e-12}
MODES = {
    "tensorflow": ("eager", "graph", "unknown_batch", "jit"),
    "jax": ("eager", "jit"),
    "torch": ("eager",),
}[keras.backend.backend()]


def tensors(arrays, dtype, *, wide=()):
    """Tensors of `dtype`, but for truth values, ids, and those in `wide`: float32 or wider."""
    found = {}
    for name, array in arrays.items():
        kind = "float32" if name in wide and dtype != "float64" else dtype
        kind = {"b": "bool", "i": "int32"}.get(array.dtype.kind, kind)
        found[name] = keras.ops.cast(keras.ops.convert_to_tensor(array), kind)
    return found


def compiled(function, arguments, mode, *, batched=()):
    """`function`, of a dictionary of tensors, as the mode has it."""
    if mode == "eager":
        return function
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    def spec(name, tensor):
        unknown = mode == "unknown_batch" and name in batched
        return tf.TensorSpec((None, *tensor.shape[1:]) if unknown else tensor.shape, tensor.dtype)

    signature = {name: spec(name, tensor) for name, tensor in arguments.items()}
    return tf.function(
        function, input_signature=[signature], jit_compile=mode == "jit", autograph=False
    )


def differentiated(function, wrt, layer=None):
    """A function of `arguments` that adds the gradients of the result `y` to those of `function`.

    `dy` among the arguments is upstream; `wrt` names the others to differentiate in. Those of a
    `layer`'s trainable weights are added, except under JAX, where weights are arguments.
    """
    return {"tensorflow": _by_tape, "jax": _by_vjp, "torch": _by_autograd}[keras.backend.backend()](
        function, wrt, [] if layer is None else layer.trainable_weights
    )


def _by_tape(function, wrt, weights):
    import tensorflow as tf

    names = [f"d{name}" for name in (*wrt, *(weight.name for weight in weights))]

    def call(arguments):
        with tf.GradientTape() as tape:
            sources = [arguments[name] for name in wrt]
            tape.watch(sources)
            results = function(arguments)
        sources += [weight.value for weight in weights]
        gradients = tape.gradient(results["y"], sources, output_gradients=arguments["dy"])
        return results | dict(zip(names, gradients, strict=True))

    return call


def _by_vjp(function, wrt, weights):
    import jax

    def call(arguments):
        def of_sources(sources):
            results = dict(function(arguments | sources))
            return results.pop("y"), results

        y, pull_back, results = jax.vjp(
            of_sources, {name: arguments[name] for name in wrt}, has_aux=True
        )
        (gradients,) = pull_back(arguments["dy"])
        return results | {"y": y} | {f"d{name}": value for name, value in gradients.items()}

    return call


def _by_autograd(function, wrt, weights):
    import torch

    names = [f"d{name}" for name in (*wrt, *(weight.name for weight in weights))]

    def call(arguments):
        sources = {name: arguments[name].detach().clone().requires_grad_() for name in wrt}
        results = function(arguments | sources)
        inputs = [*sources.values(), *(weight.value for weight in weights)]
        gradients = torch.autograd.grad(results["y"], inputs, arguments["dy"])
        return results | dict(zip(names, gradients, strict=True))

    return call


def _arrays(results):
    return {
        name: np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(value, "float64")))
        if keras.backend.backend() != "jax"
        else np.asarray(value, "float64")
        for name, value in results.items()
    }


def _wide_types(dtype):
    """Under JAX, where float64 is to be asked for, a context that has it."""
    if keras.backend.backend() != "jax" or dtype != "float64":
        return contextlib.nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # JAX before 0.8

    return enable_x64()


def run(name, mode, dtype, **options):
    """The results of a case, as arrays of float64."""
    kind, case = name.split(".")[0], write.CASES[name]
    with _wide_types(dtype):
        steps = {"ops": run_op, "layers": run_layer}[kind]
        return steps(case, write.read(name)[0], mode, dtype, **options)


def run_op(case, inputs, mode, dtype):
    """The results of a function."""
    vectors = [key for key in inputs if key not in ("x", "dy", "mask")]
    arguments = tensors(inputs, dtype, wide=vectors)
    outputs = case.expect(inputs)
    function = case.call
    if "y" in outputs:
        wrt = [name for name in inputs if f"d{name}" in outputs]
        function = differentiated(function, wrt)
    function = compiled(function, arguments, mode, batched=("x", "dy", "mask"))
    return _arrays(function(arguments))


def run_layer(case, inputs, mode, dtype, **options):
    """The results of two training steps of a layer, of inference after them, and its weights."""
    layer = case.make(dtype=POLICIES[dtype], **options)
    for name, value in case.weights(inputs).items():
        getattr(layer, name).assign(value)
    step = jax_step if keras.backend.backend() == "jax" else stateful_step
    found = {}
    train = infer = None
    for number in range(2):
        names = [name for name in ("x", "dy", "mask") if f"{name}{number}" in inputs]
        arguments = arguments_of(case, {name: inputs[f"{name}{number}"] for name in names}, dtype)
        train = train or step(layer, case, arguments, mode)
        results = train(arguments)
        found |= {f"{name}{number}": value for name, value in results.items()}
    arguments = arguments_of(case, {"x": inputs["x0"]}, dtype)
    infer = compiled(
        lambda given: {"inference": layer(given["x"], **others(case, given, training=False))},
        arguments,
        mode,
        batched=arguments,
    )
    found |= infer(arguments)
    found |= {weight.name: weight.value for weight in layer.non_trainable_variables}
    return _moved_axes(case, _arrays(found))


def arguments_of(case, arrays, dtype):
    """Tensors for a call of a layer, with the channels where it has them."""
    moved = {
        name: np.moveaxis(array, -1, case.axis) if name in ("x", "dy") else array
        for name, array in arrays.items()
    }
    if isinstance(case.domain, np.ndarray):
        moved["domain"] = case.domain
    return tensors(moved, dtype)


def others(case, arguments, *, training):
    """What a call takes beside its inputs."""
    found = {name: arguments[name] for name in ("mask", "domain") if name in arguments}
    found |= {"domain": case.domain} if isinstance(case.domain, int) else {}
    return found | ({"training": training} if case.trains else {})


def stateful_step(layer, case, arguments, mode):
    """A training step as a function of its arguments."""

    def train(given):
        return {"y": layer(given["x"], **others(case, given, training=True))}

    return compiled(differentiated(train, ["x"], layer), arguments, mode, batched=arguments)


def jax_step(layer, case, arguments, mode):
    """As `stateful_step`; what is compiled has the weights for arguments and results."""
    trainable = [weight.name for weight in layer.trainable_weights]
    fixed = [weight.name for weight in layer.non_trainable_variables]

    def train(given):
        y, after = layer.stateless_call(
            [given[name] for name in trainable],
            [given[name] for name in fixed],
            given["x"],
            **others(case, given, training=True),
        )
        return {"y": y} | dict(zip(fixed, after, strict=True))

    step = compiled(differentiated(train, ["x", *trainable]), arguments, mode)

    def assigning(given):
        results = step(given | {weight.name: weight.value for weight in layer.variables})
        for weight in layer.non_trainable_variables:
            weight.assign(results.pop(weight.name))
        return results

    return assigning


def _moved_axes(case, results):
    whole = len(case.shape)
    return {
        name: np.moveaxis(value, case.axis, -1) if value.ndim == whole else value
        for name, value in results.items()
    }


def assert_close(actual, expected, tolerance, label=""):
    """Within `tolerance` of the greatest value, or of 1."""
    bound = tolerance * max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=label)


def assert_as_written(name, results, tolerance):
    """Holds all that is written of a case against results of it."""
    for key, expected in write.read(name)[1].items():
        assert key in results, f"{key} is missing among {sorted(results)}"
        assert_close(results[key], expected, tolerance, key)
