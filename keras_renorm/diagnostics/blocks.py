"""The residual blocks of a model: which input of an addition is the skip path or the branch."""

import dataclasses

from keras_renorm.models import Call, Calls, Value, is_batch_norm


@dataclasses.dataclass(frozen=True)
class Block:
    """An addition of a skip path and a branch.

    Attributes:
        call: The addition.
        skip: Which of its two inputs is the skip path, 0 or 1.
        index: l, the number of this block. It counts from 1 where the skip path begins: at an
            input, or at a normalization on the path.
        first: The addition of block 1 of the same skip path.
    """

    call: Call
    skip: int
    index: int
    first: Call

    @property
    def branch(self) -> int:
        """Which of the inputs is the branch."""
        return 1 - self.skip


def residual_blocks(graph: Calls) -> tuple[list[Block], list[Call]]:
    """The blocks of a model, and the additions whose two paths are equally long.

    This follows the two inputs of an addition back to where they part. The skip path is the one
    with fewer calls from there: none (the identity), or a projection.

    Args:
        graph: The calls of the model.

    Returns:
        The blocks in their order, and the additions without a shorter path.
    """
    blocks: dict[Call, Block] = {}
    undecided = []
    order = {call: number for number, call in enumerate(graph.calls)}
    for call in graph.calls:
        # An addition is a `keras.layers.Add`, `x + y` or a `keras.ops.add`.
        if type(call.operation).__name__ != "Add" or len(call.inputs) != 2:
            continue
        one, other = call.inputs
        first, second = _distances(one, other, order)
        if first == second:
            undecided.append(call)
            continue
        skip = 0 if first < second else 1
        before = _before(call.inputs[skip], blocks)
        index, start = (1, call) if before is None else (before.index + 1, before.first)
        blocks[call] = Block(call, skip, index, start)
    return list(blocks.values()), undecided


def _distances(first: Value, second: Value, order: dict[Call, int]) -> tuple[int, int]:
    """Numbers of calls from two values back to where they part; equal if they never met.

    They part at the last value that both come from. That need not be the nearest such value: a gate
    of every branch is an input of the branch's last call.
    """
    distances: tuple[dict[Value, int], dict[Value, int]] = ({first: 0}, {second: 0})
    waiting = {first: None, second: None}  # A set that keeps its order.
    while waiting:
        last = max(waiting, key=lambda value: order[value.producer] if value.producer else -1)
        if last in distances[0] and last in distances[1]:
            return distances[0][last], distances[1][last]
        del waiting[last]
        for distance in distances:
            for value in _came_from(last) if last in distance else ():
                distance[value] = min(distance.get(value, len(order)), distance[last] + 1)
                waiting[value] = None
    return 0, 0


def _came_from(value: Value) -> tuple[Value, ...]:
    """The next values on a path; the domains and the mask of a norm are on no path."""
    call = value.producer
    if call is None:
        return ()
    return call.inputs[:1] if is_batch_norm(call.operation) else call.inputs


def _before(skip: Value, blocks: dict[Call, Block]) -> Block | None:
    """The block that the skip path comes from; None where the path begins anew."""
    call = skip.producer
    while call is not None:
        if call in blocks:
            return blocks[call]
        if is_batch_norm(call.operation) or len(call.inputs) != 1:
            return None
        call = call.inputs[0].producer
    return None
