"""Which statistics a layer normalises with, and where inference uses the minibatch's."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from keras_renorm.ops import backends

#: "batch": training uses the minibatch's statistics and updates the moving ones, inference uses the
#: moving ones. "moving": always the moving ones, as the layer is not trainable. "frozen": always
#: the moving ones, while gamma and beta train. "batch_at_inference": always the minibatch's,
#: without corrections and without an update.
StatisticsInUse = Literal["batch", "moving", "frozen", "batch_at_inference"]

# The layers of each open context: of all threads, and of this thread in `_here.contexts`.
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
        # Contexts entered since, and still open, stay.
        _here.contexts = tuple(one for one in _here.contexts if one is not context)
        _everywhere.remove(context)


def uses_batch_at_inference(layer: Any) -> bool:
    """Whether a `batch_at_inference` of this thread holds for a layer.

    A `tf.distribute` strategy makes a thread for each replica. In such a thread a context of any
    thread holds, as nothing tells which thread started the replica.
    """
    if not _everywhere:
        return False
    everywhere = backends.current().in_replica()
    contexts = tuple(_everywhere) if everywhere else getattr(_here, "contexts", ())
    return any(layer is one for context in contexts for one in context)
