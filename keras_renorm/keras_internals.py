"""The private names of Keras that the package uses, one function for each.

Each was looked up in Keras 3.4, 3.6, 3.8, 3.10, 3.12, 3.14 and 3.15: "all" means all of these.
Public names that older versions lack stand here, too. Nothing else in the package touches a private
name of Keras, or asks about one backend or one version of Keras.
"""

import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend.common import stateless_scope

from keras_renorm.typing import Layer, Tensor

TO_LITE_RT = ("keras.src.export.litert", "tensorflow.lite")
EXPORTERS = ("keras.src.export", "jax._src.export", "jax2onnx", "tensorflow.lite", "tf2onnx")


def flattened(layer: Layer) -> list[Layer]:
    """A layer and all layers in it, at any depth, each once.

    `Layer._flatten_layers`, in all.
    """
    return layer._flatten_layers()


def children(layer: Layer) -> list[Layer]:
    """The layers directly in a layer, each once. A model's include its input layers.

    `Layer._flatten_layers(include_self=False, recursive=False)`, in all.
    """
    return layer._flatten_layers(include_self=False, recursive=False)


def attributes(layer: Layer) -> dict[str, Any]:
    """The attributes of a layer by name, without the lists in which frameworks track them.

    `Layer._layers`, in all. PyTorch keeps layers in `_modules`. TensorFlow's own lists are
    `_self_...`.
    """
    held = vars(layer) | vars(layer).get("_modules", {})
    books = ("_layers", "_modules", "_tracker", "_torch_params")
    return {
        name: value
        for name, value in held.items()
        if name not in books and not name.startswith("_self_")
    }


def replace_child(holder: Layer, old: Layer, new: Layer) -> None:
    """Puts `new` into the place of `old` among a layer's layers, even if the layer is built.

    `Layer._tracker` and its `replace_tracked_value`, in all.
    """
    holder._tracker.replace_tracked_value("layers", old, new)


def adopt_variables(layer: Layer, variables: dict[str, Any]) -> None:
    """Replaces all variables with gradient of a built layer by these, in their order.

    `Layer._tracker` and its `unlock`, `untrack`, `add_to_store` and `lock`, in all.
    """
    layer._tracker.unlock()
    for name, variable in variables.items():
        layer._tracker.untrack(getattr(layer, name))
        # The tracker itself would file a frozen variable among those that never train.
        layer._tracker.add_to_store("trainable_variables", variable)
        setattr(layer, name, variable)
    layer._tracker.lock()


def show_parameters(layer: Layer) -> None:
    """Shows PyTorch the present variables of a layer.

    `Layer._post_build`, in all.
    """
    layer._post_build()


def copy_trainable(old: Layer, new: Layer) -> None:
    """Gives a layer the `trainable` of another. Unlike the setter, it leaves inner layers alone.

    `Layer._trainable`, in all.
    """
    new._trainable = old._trainable


def functional(operation: Any) -> Any:
    """The functional model that an operation is, or that a built Sequential holds, or None.

    `Sequential._functional`, in all. No public name exists for the class of functional models:
    they alone have `_nodes_by_depth`, in all.
    """
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if hasattr(operation, "_nodes_by_depth") else None


def nodes(model: Any) -> list[Any]:
    """The calls in a functional model's graph, in the order in which Keras makes them.

    `Function._nodes_by_depth`, in all, and the attributes of its nodes, which have no underscore
    and no public class: `operation`, `arguments`, `input_tensors`, `outputs`, `is_input`.
    """
    by_depth = model._nodes_by_depth
    depths = sorted(by_depth, reverse=True)
    return [node for depth in depths for node in by_depth[depth] if not node.is_input]


def number_of_calls(layer: Layer) -> int:
    """How many calls of a layer the graphs of all models hold.

    `Operation._inbound_nodes`, in all.
    """
    return len(layer._inbound_nodes)


def operation_of(tensor: keras.KerasTensor) -> Any:
    """The operation that makes a symbolic tensor: an `InputLayer` for an input.

    `KerasTensor._keras_history`, in all.
    """
    return tensor._keras_history.operation


def same_operation(operation: Any) -> Any:
    """A copy of an operation that is no layer, without its calls in a graph.

    The operation has no weights, and a configuration could not hold its functions and arrays.
    `Operation._inbound_nodes` and `_outbound_nodes`, in all.
    """
    new = object.__new__(type(operation))
    vars(new).update(vars(operation))
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def seed_generators(layer: Layer) -> list[keras.random.SeedGenerator]:
    """The generators that a layer itself draws random numbers from.

    `Layer._seed_generators`, in all.
    """
    return layer._seed_generators


@contextlib.contextmanager
def losses_kept(layer: Layer) -> Iterator[None]:
    """In the context, calls keep the losses that an earlier call gave `layer`, and add none.

    Otherwise a call of the whole model first takes them away, even within a `StatelessScope`.
    `Layer._losses` and `Layer._loss_ids`, in all.
    """
    parts = flattened(layer)
    before = [(list(part._losses), set(part._loss_ids)) for part in parts]
    try:
        yield
    finally:
        for part, (losses, ids) in zip(parts, before, strict=True):
            part._losses[:] = losses
            part._loss_ids.clear()
            part._loss_ids.update(ids)


def knows_training(layer: Layer) -> bool:
    """Whether a layer's `call` takes `training`.

    `Layer._call_has_training_arg`, in all.
    """
    return layer._call_has_training_arg


def output_shape_of_lambda(layer: keras.layers.Lambda) -> Any:
    """The `output_shape` that a `Lambda` was given.

    `Lambda._output_shape`, in all.
    """
    return layer._output_shape


def batches_seen(optimizer: keras.optimizers.Optimizer) -> int:
    """The number of batches that an optimizer got. `iterations` counts gathered ones as one step.

    `Optimizer._iterations`, in all but 3.4, whose `iterations` counts batches.
    """
    counted = getattr(optimizer, "_iterations", optimizer.iterations)
    return int(keras.ops.convert_to_numpy(counted))


def callbacks_in_fit() -> list[Any]:
    """The callbacks of the list that is calling one of them; empty if no list is.

    Keras does not tell a callback about the others. `self` in the frames of the methods of
    `keras.callbacks.CallbackList`, and its `callbacks`, in all.
    """
    for frame in _stack():
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return list(caller.callbacks)
    return []


def is_keras_method(kind: type, method: str) -> bool:
    """Whether a class has Keras's own version of a method.

    The package of its module, `keras`, in all.
    """
    base = next(base for base in kind.__mro__ if method in vars(base))
    return base.__module__.partition(".")[0] == "keras"


def renormalizes(layer: Layer) -> bool:
    """Whether a layer corrects the minibatch's statistics by the moving ones.

    `BatchNormalization.renorm`, from 3.14 on, and our layer's attribute of that name.
    """
    return bool(getattr(layer, "renorm", False))


def variable_of_each_replica(aggregation: str, **options: Any) -> keras.Variable:
    """A variable with a copy for each replica of a `tf.distribute` strategy, updated apart.

    `keras.Variable(synchronization=)`, from 3.10 on, and its `aggregation`, which Keras heeds from
    3.7 on. In older versions, TensorFlow hears both when Keras asks it for the variable. Otherwise
    a read would give replica 0's value.
    """
    options["aggregation"] = aggregation
    if "synchronization" in inspect.signature(keras.Variable.__init__).parameters:
        return keras.Variable(**options, synchronization="on_read")
    if keras.backend.backend() != "tensorflow":
        return keras.Variable(**options)
    import tensorflow as tf

    told = {
        "synchronization": tf.VariableSynchronization.ON_READ,
        "aggregation": tf.VariableAggregation[aggregation.upper()],
    }

    def on_read(create: Callable[..., Any], **given: Any) -> Any:
        return create(**given | told)

    with tf.variable_creator_scope(on_read):
        return keras.Variable(**options)


def keras_synchronizes() -> bool:
    """Whether `keras.layers.BatchNormalization` takes `synchronized=True`.

    Keras refuses that under backends other than TensorFlow, in all.
    """
    return keras.backend.backend() == "tensorflow"


def trains_fixed_variables() -> bool:
    """Whether a running `fit` cannot change which variables it trains.

    The JAX trainer sorts variables as `fit` begins, in all.
    """
    return keras.backend.backend() == "jax"


def copies_state_to_callbacks() -> bool:
    """Whether a callback that reads `model` during an epoch has the state of training copied.

    `Callback.model` calls JAX's `Trainer.jax_state_sync`, in all.
    """
    return keras.backend.backend() == "jax"


def adds_in_chains() -> bool:
    """Whether `keras.ops.sum` may add thousands of float32 numbers one after another.

    JAX's XLA from 0.10 on and PyTorch's kernels add in trees. TensorFlow's and NumPy's do not, and
    what PyTorch's compiler makes of a sum differs between versions.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.__version_info__ < (0, 10)
    if keras.backend.backend() == "torch":
        import torch

        return torch.compiler.is_compiling()
    return True


def may_mistake_width(layer: Layer) -> bool:
    """Whether a convolution with channels first may add its bias along the width.

    Under TensorFlow `ops.add` finds the channels' axis by its size, and takes the last axis where
    both sizes are equal, in all from 3.8 on.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    if number_of_calls(layer) != 1:  # other models use it, too, and may have other widths
        return True
    shape = layer.output.shape
    return shape[-1] is None or shape[-1] == shape[1]


def notes_of_call(layer: Layer) -> dict[Any, Any] | None:
    """A place for notes while the call of the whole model runs, or None outside such a call.

    The call is the outermost `__call__`, or a `StatelessScope`, because `stateless_call` does not
    go through the model's `__call__`. `get_stateless_scope`, `Layer._get_call_context` and
    `_maybe_reset_call_context`, in all; `entry_layer` has no underscore and no public class.
    """
    holder: Any = stateless_scope.get_stateless_scope()
    if holder is None:
        holder = layer._get_call_context()
        if holder.entry_layer is layer:
            # The layer alone is called. If by `call` itself, the line above made the context.
            layer._maybe_reset_call_context()
            return None
    if not hasattr(holder, "_keras_renorm_notes"):
        holder._keras_renorm_notes = {}
    return holder._keras_renorm_notes


def loaded_with(layer: Layer) -> list[Any]:
    """The list of layers with `layer` that Keras is loading from a file; empty if there is none.

    `container` in the frame of `saving_lib._load_container_state`, in all.
    """
    for frame in _stack():
        container = frame.f_locals.get("container")
        if isinstance(container, list | tuple) and any(one is layer for one in container):
            return list(container)
    return []


def beside(store: Any, name: str, old: str, new: str, number: int | None) -> list[Any]:
    """The weights that a file has for a layer of another class in the place of a missing layer.

    A file has a group for each layer, named by the layer's class and its number in that class in a
    list, such as `batch_normalization_2`. Since 3.6 the group also holds the layer's name.

    Args:
        store: What `load_own_variables` gets.
        name: The missing layer's name. A group with this name comes first.
        old: The part of the missing group's name to replace.
        new: What the file has in its place.
        number: The number of the group in its list, or None for a layer in no list, which Keras
            names by its attribute.

    Returns:
        The weights, in the order of the file; empty if there is no such group.

    `H5IOStore.h5_file`, `_h5_entry_path` and `get` from 3.10 on, before that `H5Entry.h5_file` and
    `path`.
    """
    path = str(getattr(store, "_h5_entry_path", None) or getattr(store, "path", ""))
    above, _, group = path.rpartition("/")
    level = store.h5_file.get(above) if above and old in group else None
    if level is None:
        return []
    kind = group.rstrip("0123456789").rstrip("_").replace(old, new)
    alike = [key for key in level if key.rstrip("0123456789").rstrip("_") == kind]
    names = {level[key]["vars"].attrs.get("name"): key for key in alike if "vars" in level[key]}
    numbered = group.replace(old, new) if number is None else f"{kind}_{number}".removesuffix("_0")
    path = f"{above}/{names.get(name, numbered)}"
    entry = store.get(path) if hasattr(store, "get") else type(store)(store.h5_file, path, mode="r")
    return [entry[str(i)] for i in range(len(entry.keys()))]


def own_weight_count(layer: Layer) -> int:
    """The number of a layer's own weights, without those of layers in it.

    `Layer._trainable_variables` and `Layer._non_trainable_variables`, in all.
    """
    return len(layer._trainable_variables) + len(layer._non_trainable_variables)


def is_exporting(exporters: tuple[str, ...] = EXPORTERS) -> bool:
    """Whether an exporter traces here and now: Keras's, or one that the user calls.

    The exporter is then on the stack. The package of Keras's, `keras.src.export`, in all.

    Args:
        exporters: The beginnings of the exporters' module names.
    """
    modules = (str(frame.f_globals.get("__name__")) for frame in _stack())
    return any(module.startswith(exporters) for module in modules)


def _stack() -> Iterator[types.FrameType]:
    """The frames of the running calls, the innermost first."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def mark_called(model: Layer) -> None:
    """Lets Keras's exporters take a model that was built and never called.

    `Layer._called`, in all.
    """
    model._called = True


def attached_mask(x: Tensor) -> Tensor | None:
    """The mask that Keras attached to a tensor, or None.

    Keras itself hands the mask over only to a layer with a single tensor argument. The mask is an
    attribute of the tensor. JAX's traced tensors take none, so under JAX Keras keeps it elsewhere.
    """
    if keras.backend.backend() != "jax":
        return getattr(x, "_keras_mask", None)
    reader = _Reader()
    reader(x)
    return reader.found[0]


class _Reader(keras.layers.Layer):
    """A layer of one tensor, which gets that tensor's mask from Keras."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.built = True
        self.found: tuple[Tensor | None, ...] = ()

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.found = (mask,)
        return inputs
