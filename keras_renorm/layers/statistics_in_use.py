"""Which statistics a layer normalises with, and where inference takes those of the minibatch."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from keras_renorm.ops import backends

#: "batch": the minibatch's in training, from which the moving ones learn, and the moving ones at
#: inference. "moving": the moving ones always, for the layer is not trainable. "frozen": the moving
#: ones always, while gamma and beta train. "batch_at_inference": the minibatch's always, without
#: corrections, and nothing is updated.
StatisticsInUse = Literal["batch", "moving", "frozen", "batch_at_inference"]

# The layers of each context that holds now, in all threads and, as `contexts`, in this one.
_everywhere: list[tuple[Any, ...]] = []
_here = threading.local()


@contextlib.contextmanager
def batch_at_inference(layers: Iterable[Any]) -> Iterator[None]:
    """In the context, in this thread, `layers` use the minibatch's statistics, update nothing."""
    context = tuple(layers)
    _everywhere.append(context)
    _here.contexts = (*getattr(_here, "contexts", ()), context)
    try:
        yield
    finally:
        # Others that were entered since, and are still open, stay.
        _here.contexts = tuple(one for one in _here.contexts if one is not context)
        _everywhere.remove(context)


def uses_batch_at_inference(layer: Any, *, in_any_thread: bool = False) -> bool:
    """Whether a `batch_at_inference` holds for a layer, in this thread or in any.

    A `tf.distribute` strategy runs each replica in a thread that it makes for it: there a context
    of any thread holds, as nothing tells whose replica it is.
    """
    if not _everywhere:
        return False
    everywhere = in_any_thread or backends.current().in_replica()
    contexts = tuple(_everywhere) if everywhere else getattr(_here, "contexts", ())
    return any(layer is one for context in contexts for one in context)
