"""Population statistics from examples: PreciseBN."""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import keras

from keras_renorm import callers
from keras_renorm.models import batch_norms
from keras_renorm.ops import arguments
from keras_renorm.statistics import costs, moving_statistics, trained_with
from keras_renorm.statistics.batches import Batches
from keras_renorm.statistics.minibatch import uses_minibatch
from keras_renorm.statistics.sets import save_set
from keras_renorm.statistics.sweeps import Sweeper

Estimator = Literal["total", "mean_of_batch_variances"]
Passes = Literal["exact", "single"]
Verbose = Literal["auto", 0, 1, 2]

# The set of statistics that a warning names.
_BEFORE = "before_precise"


class PreciseReport(NamedTuple):
    """What `precise` did.

    Attributes:
        examples: The number of examples behind the statistics.
        sweeps: How many times the examples went through the model.
        change: How much the last sweep still changed the statistics: means in deviations,
            variances as a share. It is 0 unless a batch norm is called several times.
        layers: The paths of the batch norms with new statistics, in the order of their calls.
        skipped: The paths of the batch norms that inference does not call. They keep their
            statistics.
    """

    examples: int
    sweeps: int
    change: float
    layers: tuple[str, ...]
    skipped: tuple[str, ...]


def precise(
    model: keras.layers.Layer,
    dataset: Any,
    num_samples: int | None = None,
    *,
    batch_size: int | None = None,
    layers: Sequence[Any] | None = None,
    estimator: Estimator = "total",
    passes: Passes = "exact",
    memory_budget: float = 2**31,
    tolerance: float = 1e-6,
    verbose: Verbose = "auto",
) -> PreciseReport:
    """Sets the statistics of every batch norm to the moments of its inputs over given examples.

    ```
    moving_mean     = E[mu_B]
    moving_variance = E[mu_B^2 + var_B] - E[mu_B]^2
    ```

    Every position of every example counts once, in float64. So the result does not depend on how
    the examples are split into batches. Unlike moving averages, it describes the weights as they
    are now: it neither lags nor flutters. Layers that draw random numbers in inference draw anew
    for each batch, and their seeds are restored at the end.

    A batch norm's inputs in inference depend on the statistics of the batch norms before it. There
    are three ways to handle that, and `verbose` prints which one is taken and what it costs:

    - By default each batch norm gets exactly the moments of its inputs in inference. A single sweep
      with all examples in one batch finds them, as long as their activations fit in
      `memory_budget`. That is some six copies of the largest activation where the backend compiles
      the model, and all activations under PyTorch.
    - Beyond that, or with a `batch_size`, the result is the same, but the batch norms get their
      statistics one after the other, in the order of their calls. So with L batch norms the
      examples go through the model L times. (Setting all at once until nothing changes takes as
      many sweeps, because a small error about doubles with each layer.)
    - `passes="single"` is the paper's way: the earlier batch norms normalise with the minibatch. It
      takes a single sweep over any number of examples and keeps none, but the result depends on the
      batches and is biased where they are small (in the paper, at 2: 34.4 % error, not 32.0 %).

    `precise` helps where training normalises with minibatches: with Batch Normalization, and with
    limits that are closed or have just opened, above all after few steps. Batch Renormalization
    with open limits trains with its moving averages, lag included. Where the averages lag much, the
    exact moments make another function of the net. `precise` then warns, and keeps the statistics
    of before as the set `"before_precise"`. After a learning rate that fell to 0 it makes no
    difference. docs/precise_statistics.md has the measurements.

    The model may call a layer several times (all calls count), and may hold other models, masks,
    layers with domains (a domain without examples keeps its statistics) and Keras's batch norms
    with all their statistics. Frozen layers get new statistics too, because `trainable` concerns
    training alone. To spare some layers, name the others in `layers`. Training goes on from the new
    statistics, and adaptive limits begin again (`trust_statistics`). Gamma, beta, counters and
    everything else stay as they are. If anything goes wrong, the model stays as it was, bit for
    bit.

    The replicas of a `tf.distribute` strategy share each batch of a model made in its scope, and
    all end with the same statistics. Each of several workers must call this with the same data.
    With `passes="single"`, give batches of at least one example for each replica. Each process of
    PyTorch makes its own pass, over its own examples.

    Args:
        model: A model, or a layer, that holds batch norms and is built.
        dataset: The examples: a `tf.data.Dataset` of batches, an array, a dictionary of arrays, a
            list or an iterator of batches, or a `keras.utils.PyDataset`. A batch is `x`, `(x, y)`
            or `(x, y, weights)`, as for `fit`; only x is used; under TensorFlow it may hold ragged
            tensors, which a model with `ragged=True` inputs takes. It is read once, in order, and
            kept in memory where several sweeps need it.
        num_samples: How many examples to take, exactly; all by default. 1,000 to 10,000 are
            enough. A dataset that does not tell its length, such as a generator, gives at most
            10,000 by default, with a warning.
        batch_size: How many examples go through the model together. By default all of them; where
            they are too many, the dataset's batches, and 32 at a time of an array.
        layers: The batch norms of the model that get new statistics; by default all.
        estimator: `"total"`, or `"mean_of_batch_variances"` for E[var_B]: the mean over batches,
            replicas and calls. It leaves out the variance between the batches, so it is too small,
            and the smaller the batches the more so.
        passes: `"exact"`, or `"single"` for the paper's one sweep.
        memory_budget: Bytes that the activations of all examples may take, estimated from a
            forward pass of the first batch. 0 leaves the batches as they are.
        tolerance: Only for a batch norm that is called several times and so may depend on itself.
            The sweeps go on until no mean changes by more deviations than this, and no variance by
            a larger share of it.
        verbose: 0 is silent. 1 or "auto" prints the cost, and shows progress bars of the reading
            and the sweeps. 2 prints the cost, and one line at the end.

    Returns:
        A `PreciseReport`.

    Raises:
        TypeError: If an argument has the wrong type, or `dataset` is none of the kinds.
        ValueError: If an argument is out of range; the model holds no batch norm or is not built;
            the dataset holds no examples or fewer than `num_samples`; the inputs of a batch norm
            are not finite, or all masked; or a batch norm lies in a compiled loop. Errors of the
            dataset itself pass through.

    Example:
        >>> images = tf.data.Dataset.from_tensor_slices(train_images).batch(64)
        >>> keras_renorm.statistics.precise(model, images, num_samples=10_000)

    Source: Wu & Johnson 2021, section 3.
    """
    _check_options(estimator, passes, memory_budget, tolerance, verbose)
    chosen = batch_norms(model, layers)
    for layer in chosen:
        moving_statistics.require_weights(layer)
    _refuse_list_of_inputs(model, dataset)
    single = passes == "single"
    show = verbose in ("auto", 1)
    examples = Batches(dataset, num_samples, batch_size, keep=not single, show=show)
    if not single and batch_size is None and estimator == "total" and not examples.is_one:
        _join(examples, costs.measured(model, chosen, examples.few()), memory_budget, verbose)
    sweeper = Sweeper(model, chosen, examples, estimator, 1 if verbose == "auto" else verbose)
    with uses_minibatch(batch_norms(model)) if single else contextlib.nullcontext():
        change = sweeper.sweep_once() if single else sweeper.sweep_until(tolerance)
    _warn_if_worse(model, *trained_with.square_distances(sweeper.changes))
    called = sweeper.assign()
    return PreciseReport(
        examples=examples.examples or 0,
        sweeps=sweeper.sweeps,
        change=change,
        layers=tuple(layer.path for layer in called),
        skipped=tuple(layer.path for layer in chosen if layer not in called),
    )


def _refuse_list_of_inputs(model: Any, dataset: Any) -> None:
    """Raises for arrays in a list where a model has several inputs: a list is one of batches."""
    inputs = len(getattr(model, "inputs", None) or ())
    arrays = isinstance(dataset, list) and dataset and all(hasattr(x, "shape") for x in dataset)
    if inputs > 1 and arrays:
        raise TypeError(
            f"`dataset` is a list of {len(dataset)} arrays. A list holds batches, and the model "
            f"{model.name!r} has {inputs} inputs. Give a dictionary of arrays by the names of the "
            "inputs, or all in one batch: `[(tuple(arrays),)]`."
        )


def _join(examples: Batches, cost: costs.Cost, memory_budget: float, verbose: Verbose) -> None:
    """Puts all examples in one batch where that costs less for the same result; prints the cost."""
    total = examples.examples or 0
    needed = cost.example_bytes * total
    joined = cost.joins and needed <= memory_budget and examples.join()
    if verbose:
        sweeps = "1 sweep" if joined else f"{cost.norms} sweeps or more"
        print(
            f"Statistics of {cost.norms} batch norm{'s'[: cost.norms != 1]} over {total:,} "
            f"examples: {sweeps}. One batch of all examples takes about {needed / 1e9:.2g} GB, and "
            f"memory_budget is {memory_budget / 1e9:.2g} GB."
        )


def _warn_if_worse(model: Any, to_before: float, to_new: float) -> None:
    """Warns of statistics that are far from those of training, and keeps the old ones."""
    if not trained_with.leads_away(to_before, to_new):
        return
    kept = all(layer.built for layer in batch_norms(model))
    if kept:
        save_set(model, _BEFORE)
    back = f'`keras_renorm.statistics.use_set(model, "{_BEFORE}")` brings them back.'
    callers.warn(
        "Batch Renorm trained this model with its moving averages: outputs in training are "
        f"{to_before**0.5:.2f} deviations from inference with these, and {to_new**0.5:.2f} with "
        "the new statistics. If the examples are like those of training, the new statistics are "
        "likely to cost accuracy." + f" The old statistics are kept: {back}" * kept,
    )


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raises the errors of `precise` for these arguments that need no model."""
    signature = inspect.signature(precise)
    allowed = [name for name in signature.parameters if name != "model"]
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise TypeError(
            f"The options must be arguments of `precise`, received {', '.join(unknown)}; its "
            f"arguments are {', '.join(allowed)}."
        )
    bound = signature.bind_partial(**given)
    bound.apply_defaults()
    one = bound.arguments
    _check_options(
        *(one[k] for k in ("estimator", "passes", "memory_budget", "tolerance", "verbose"))
    )
    # Reads nothing yet.
    Batches(one["dataset"], one["num_samples"], one["batch_size"], keep=False)


def _check_options(
    estimator: Any, passes: Any, memory_budget: Any, tolerance: Any, verbose: Any
) -> None:
    _check_choice("estimator", estimator, get_args(Estimator))
    _check_choice("passes", passes, get_args(Passes))
    arguments.real("memory_budget", memory_budget, low=0)
    _check_choice("verbose", verbose, get_args(Verbose))
    arguments.real("tolerance", tolerance, low=0)


def _check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if not (isinstance(value, str) or arguments.is_number(value)) or value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ValueError(f"`{name}` must be one of {choices}; received {name}={value!r}.")
