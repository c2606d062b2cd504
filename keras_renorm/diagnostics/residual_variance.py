"""The variance of skip path and branch in every residual block."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_renorm.diagnostics.blocks import Block, residual_blocks
from keras_renorm.diagnostics.forward_pass import forward, noise
from keras_renorm.diagnostics.report import Finding, Report
from keras_renorm.diagnostics.tables import listing
from keras_renorm.models import LayerCall, calls

# The skip path's variance may grow by this factor times the number of blocks. A normalised branch
# adds 1 in each block, so the growth is about that number, and the factor lets first blocks vary.
_GROWTH = 10


@dataclasses.dataclass(frozen=True)
class BlockVariance:
    """The variances in one residual block, over all values of a batch.

    Attributes:
        block: Name of the addition.
        index: l, the number of the block, which counts from 1 where the skip path begins.
        skip: Variance of the skip path.
        branch: Variance of the branch.
        ratio: branch / skip.
    """

    block: str
    index: int
    skip: float
    branch: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class ResidualVarianceReport(Report):
    """What `residual_variance` returns.

    Attributes:
        blocks: The blocks, in their order.
        exponent: p of the fit ratio ~ l^p: about -1 with Batch Normalization, 0 where the
            branches do not shrink. None with fewer than three blocks that have a ratio.
    """

    blocks: tuple[BlockVariance, ...]
    exponent: float | None

    def scalars(self) -> dict[str, float]:
        """The exponent, and every block's variances and ratio."""
        values = {
            f"residual_variance/{name}/{block.block}": getattr(block, name)
            for block in self.blocks
            for name in ("skip", "branch", "ratio")
        }
        if self.exponent is not None:
            values["residual_variance/exponent"] = self.exponent
        return values

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        header = ("block", "l", "skip", "branch", "branch/skip")
        return header, [dataclasses.astuple(block) for block in self.blocks]

    def _draw(self, figure: Any) -> None:
        variances, ratios = figure.subplots(2)
        numbers = range(1, len(self.blocks) + 1)
        for name, style in (("skip", "-"), ("branch", "--")):
            variances.plot(numbers, [getattr(b, name) for b in self.blocks], style, label=name)
        variances.set(xlabel="block", ylabel="variance")
        variances.legend()
        index = np.array([block.index for block in self.blocks])
        ratios.plot(index, [block.ratio for block in self.blocks], ".", label="blocks")
        line = np.unique(index)
        ratios.plot(line, 1 / line, "k:", label="1/l")
        if any(block.ratio > 0 for block in self.blocks):
            ratios.set(xscale="log", yscale="log")
        fit = "" if self.exponent is None else f", fit l^{self.exponent:.2f}"
        ratios.set(xlabel="l, blocks since the skip path began", ylabel="branch/skip" + fit)
        ratios.legend()
        for axes in (variances, ratios):
            axes.grid(alpha=0.3)


def residual_variance(model: keras.Model, x: Any) -> ResidualVarianceReport:
    """The variance of skip path and branch in every residual block of a model.

    ```
    y = skip(x) + branch(x)        ratio = Var[branch(x)] / Var[skip(x)]
    ```

    Variances are over all values of a batch, in training mode without dropout. At initialisation
    a branch with Batch Normalization has about variance 1, and adds it to the skip path. So the
    ratio in block l is about 1/l, and deep blocks begin close to the identity. `SkipInit(0)` makes
    the ratio 0. Without either the ratio stays near 1, and the skip path's variance doubles in
    every block.

    A block is an addition of two tensors, by `keras.layers.Add` or `+`. The skip path has fewer
    layers than the branch from where the two part. l counts from 1 at the model's inputs, and
    starts again at a normalization on the skip path. Nothing in the model changes.

    Args:
        model: A functional or Sequential model. For other models the report says that the blocks
            are unknown.
        x: A batch of its inputs.

    Returns:
        A `ResidualVarianceReport`.

    Raises:
        TypeError: If `x` is not one batch, but a dataset or an iterator.
        ValueError: If the model is not built.

    Example:
        >>> report = keras_renorm.diagnostics.residual_variance(model, images)
        >>> round(report.exponent)  # with Batch Normalization
        -1

    Source: De & Smith 2020, section 3.
    """
    graph = calls(model)
    blocks, undecided = residual_blocks(graph)
    variances = _measure(model, x, {block.call.operation for block in blocks})
    measured = {
        block: _row(block, variances[block.call.operation])
        for block in blocks
        if block.call.index < len(variances.get(block.call.operation, ()))
    }
    rows = tuple(measured.values())
    notes = [*graph.unknown, *noise(model), *_notes(rows)]
    for left_out, reason in (
        (undecided, "neither input is the shorter path"),
        ([b.call for b in blocks if b not in measured], "the model's own `call` skips them"),
    ):
        if left_out:
            names = listing([call.name for call in left_out])
            notes.append(f"Left out, because {reason}: {names}.")
    return ResidualVarianceReport(tuple(_findings(model, measured)), tuple(notes), rows, _fit(rows))


def _measure(
    model: keras.Model, x: Any, additions: set[Any]
) -> dict[Any, list[tuple[float, float]]]:
    """For each call of each addition the variances of its two inputs."""
    variances: dict[Any, list[tuple[float, float]]] = {}

    def around(call: LayerCall) -> Any:
        first, second = keras.tree.flatten((call.args, call.kwargs))[:2]
        variances.setdefault(call.layer, []).append((_variance(first), _variance(second)))
        return call.run()

    forward(model, x, dict.fromkeys(additions, around), training=True)
    return variances


def _variance(x: Any) -> float:
    """The variance in float64. The squares of float32 overflow from a deviation of 1e19 on."""
    with np.errstate(all="ignore"):  # what is not finite is a finding
        return float(np.var(np.asarray(keras.ops.convert_to_numpy(x), np.float64)))


def _row(block: Block, variances: list[tuple[float, float]]) -> BlockVariance:
    pair = variances[block.call.index]
    skip, branch = pair[block.skip], pair[block.branch]
    ratio = branch / skip if skip else math.nan
    name = block.call.name + (f" (call {block.call.index + 1})" if len(variances) > 1 else "")
    return BlockVariance(name, block.index, skip, branch, ratio)


def _fit(rows: Sequence[BlockVariance]) -> float | None:
    """The slope of log ratio over log l."""
    points = [(b.index, b.ratio) for b in rows if b.ratio > 0 and math.isfinite(b.ratio)]
    if len({index for index, _ in points}) < 3:
        return None
    index, ratio = np.log(np.array(points, np.float64)).T
    return float(np.polyfit(index, ratio, 1)[0])


def _notes(rows: Sequence[BlockVariance]) -> Iterator[str]:
    if not rows:
        yield "No residual blocks were found: additions of two tensors, by Add or +."
    elif all(row.branch == 0 for row in rows):
        yield "Every branch is 0, so every block begins as its skip path: SkipInit(0) or gamma=0."
    elif (fit := _fit(rows)) is not None:
        yield f"branch/skip goes as l^{fit:.2f}; about l^-1 where a norm begins each branch."


def _findings(model: keras.Model, measured: dict[Block, BlockVariance]) -> list[Finding]:
    """The first place where a skip path's variance explodes, if there is one."""
    rows = {block.call: row for block, row in measured.items()}
    for block, row in measured.items():
        first = rows.get(block.first)
        if first is None or not first.skip:  # not measured, or a constant
            continue
        if not math.isfinite(first.skip):
            message = (
                f"The variance on the skip path of {model.name} is {first.skip} at its first "
                f"block, {first.block}: the inputs or the weights before it are not finite."
            )
            return [Finding(first.block, "not finite", message)]
        if row.skip <= _GROWTH * row.index * first.skip:
            continue
        message = (
            f"The variance on the skip path of {model.name} grows from {first.skip:.3g} at "
            f"{first.block} to {row.skip:.3g} at {row.block}, in {row.index} blocks: the branches "
            "do not shrink with depth. End each branch with keras_renorm.layers.SkipInit(), or "
            "put a normalization at its beginning."
        )
        return [Finding(row.block, "exploding skip path", message)]
    return []
