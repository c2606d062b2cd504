"""What the workers of a run tell each other. One process alone is a worker, too."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from zoo.errors import UserError, WorkerLostError
from zoo.training import config as configs
from zoo.training.distribution.clusters import Cluster

_T = TypeVar("_T")


class Workers:
    """The workers of a run, seen from one of them.

    Every method is a collective: all workers must call it together.

    Args:
        strategy: The run's.
        cluster: The workers' names.
    """

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster) -> None:
        self.strategy = strategy
        self._cluster = cluster
        codes = tf.TensorSpec([None], tf.int32)
        self._gather = tf.function(self._gathered, input_signature=[codes])

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the files."""
        return self._cluster.is_chief

    def exchange(self, value: Any) -> list[Any]:
        """Returns every worker's `value`, which JSON must hold, in the workers' order."""
        if len(self._cluster) == 1:
            return [value]
        line = json.dumps([self._cluster.index, value]) + "\n"
        codes = self._gather(tf.constant(list(line.encode()), tf.int32)).numpy()
        # A worker with several devices sends its line once for each of them.
        lines = bytes(codes.tolist()).decode().splitlines()
        values = dict(json.loads(line) for line in lines)
        return [values[index] for index in sorted(values)]

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raises a `UserError` on every worker when their configs differ."""
        chiefs, *others = self.exchange(dict(config))
        for index, other in enumerate(others, start=1):
            if different := configs.differences(chiefs, other):
                raise UserError(
                    f"{self._cluster.describe(index)} was started with another config than the "
                    f"chief: {configs.listed(different, 'chief', 'it')}. Start all workers with "
                    "the same command."
                )

    def together(self, action: Callable[[], _T]) -> _T:
        """Runs `action` on every worker and returns its result. `action` must hold no collective.

        Raises:
            UserError: On every worker, when one raises it or an `OSError`.
        """
        if len(self._cluster) == 1:
            return action()
        result, problem = None, None
        try:
            result = action()
        except (UserError, OSError) as error:
            problem = str(error)
        for index, found in enumerate(self.exchange(problem)):
            if found is not None:
                raise UserError(f"{self._cluster.describe(index)}: {found}")
        return result  # type: ignore[return-value]

    def chiefs(self, action: Callable[[], _T]) -> _T:
        """Runs `action` on the chief and returns its result, which JSON must hold, on every worker.

        Raises:
            UserError: On every worker, when the chief raises it or an `OSError`.
        """
        result = self.together(lambda: action() if self.is_chief else None)
        return self.exchange(result)[0]

    def copy_from_chief(self, variables: Sequence[tf.Variable]) -> None:
        """Gives variables the chief's values, bit for bit."""
        if len(self._cluster) == 1:
            return
        for variable, value in zip(variables, self._chiefs_values(variables), strict=True):
            variable.assign(value)

    def _chiefs_values(self, variables: Sequence[tf.Variable]) -> list[Any]:
        """Returns the first replica's values of variables."""

        def values() -> list[Any]:
            context = tf.distribute.get_replica_context()
            first = tf.equal(context.replica_id_in_sync_group, 0)
            return [_first_ones(context, first, v.read_value()) for v in variables]

        found = tf.function(lambda: self.strategy.run(values))()
        return [self.strategy.experimental_local_results(value)[0] for value in found]

    def _gathered(self, codes: Any) -> Any:
        """Returns the vectors of all replicas, one after the other."""
        return self.strategy.gather(self.strategy.run(tf.identity, (codes,)), axis=0)


def _first_ones(context: tf.distribute.ReplicaContext, first: Any, own: Any) -> Any:
    """Returns the value of the replica that is the first, on every replica."""
    # Bits and not numbers are added to zeros: adding numbers loses the sign of a zero, and
    # denormal numbers, which TensorFlow's threads flush to zero.
    kind = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}[own.dtype.size]
    bits = tf.cast(tf.bitcast(own, kind), tf.int64)
    found = context.all_reduce("SUM", tf.where(first, bits, tf.zeros_like(bits)))
    return tf.bitcast(tf.cast(found, kind), own.dtype)


@contextlib.contextmanager
def lost_workers_named(cluster: Cluster) -> Iterator[None]:
    """Turns TensorFlow's error in a collective into one that names the worker that was lost.

    A killed worker is noticed when its connection closes. A frozen one, or one whose machine is
    gone, is noticed after 10 s without heartbeats.

    Args:
        cluster: The workers. An error of one that works alone stays as it is.

    Yields:
        Nothing.

    Raises:
        WorkerLostError: When a worker was lost.
    """
    kinds = (
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
        tf.errors.UnavailableError,
    )
    try:
        yield
    except kinds as error:
        if len(cluster) == 1:
            raise
        culprit = cluster.culprit(error.message)
        who = "another worker" if culprit is None else cluster.describe(culprit)
        raise WorkerLostError(
            f"lost {who}: it has ended or does not answer, and the others stop. Its own messages "
            "tell why. The same command, on every worker, resumes from the newest checkpoint."
        ) from error
