"""Which statistics a layer normalises with, and where inference takes those of the minibatch."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from keras_renorm.ops import Replicas

#: "batch": the minibatch's in training, from which the moving ones learn, and the moving ones at
#: inference. "moving": the moving ones always, for the layer is not trainable. "frozen": the moving
#: ones always, while gamma and beta train. "batch_at_inference": the minibatch's always, without
#: corrections, and nothing is updated.
StatisticsInUse = Literal["batch", "moving", "frozen", "batch_at_inference"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Context:
    thread: int
    layers: Sequence[Any]


_contexts: list[_Context] = []


@contextlib.contextmanager
def batch_at_inference(layers: Sequence[Any]) -> Iterator[None]:
    """In the context, in this thread, `layers` use the minibatch's statistics, update nothing."""
    context = _Context(threading.get_ident(), layers)
    _contexts.append(context)
    try:
        yield
    finally:
        _contexts.remove(context)


def uses_batch_at_inference(layer: Any, *, in_any_thread: bool = False) -> bool:
    """Whether a `batch_at_inference` holds for a layer, in this thread or in any.

    A `tf.distribute` strategy runs each replica in a thread that it makes for it: there a context
    of any thread holds, as nothing tells whose replica it is.
    """
    threads = {one.thread for one in tuple(_contexts) if any(layer is o for o in one.layers)}
    if threads and (in_any_thread or Replicas.running() is not None):
        return True
    return threading.get_ident() in threads
