"""Writes the StableHLO modules by which TensorFlow calls a handler where XLA compiles.

A module is one `custom_call`. Where a dimension is unknown, the call tells XLA the shape of each
result in one more operand, computed from the dimensions of the first operand. The handler does not
see these operands.
"""

import functools
from typing import NamedTuple

DYNAMIC = -1
"""An unknown dimension in a `Type`."""


class Quotient(NamedTuple):
    """An unknown dimension of a result: the first operand's first over `divisor`, rounded up.

    Attributes:
        divisor: At least 1.
    """

    divisor: int


class Type(NamedTuple):
    """A tensor's type.

    Attributes:
        element: StableHLO's name for the element type: f32, bf16, i1, ...
        shape: The dimensions, `DYNAMIC` or a `Quotient` where unknown.
    """

    element: str
    shape: tuple[int | Quotient, ...]

    def __str__(self) -> str:
        sizes = ("?" if _unknown(size) else str(size) for size in self.shape)
        return f"tensor<{'x'.join([*sizes, self.element])}>"

    @property
    def dynamic(self) -> bool:
        """Whether a dimension is unknown."""
        return any(_unknown(size) for size in self.shape)


def _unknown(size: int | Quotient) -> bool:
    return size == DYNAMIC or isinstance(size, Quotient)


def _attribute(value: bool | int | float) -> str:
    """Writes an attribute's value with its type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} : i64"
    return f"{value:.17e} : f64"


def _shape_operand(index: int, of: Type, first: Type) -> list[str]:
    """Lines that compute %shape<index>, the shape of a result of type `of`."""
    rank = len(of.shape)
    if not of.dynamic:
        sizes = ", ".join(map(str, of.shape))
        return [f"%shape{index} = stablehlo.constant dense<[{sizes}]> : tensor<{rank}xi32>"]
    lines, parts = [], []
    for axis, size in enumerate(of.shape):
        part = f"%shape{index}_{axis}"
        if isinstance(size, Quotient):
            lines += [*_dimension(f"{part}n", 0, first), *_divided_up(part, size.divisor)]
        elif size == DYNAMIC:
            lines += _dimension(part, axis, first)
        else:
            lines.append(f"{part} = stablehlo.constant dense<{size}> : tensor<1xi32>")
        parts.append(part)
    types = ", ".join(["tensor<1xi32>"] * rank)
    lines.append(
        f'%shape{index} = "stablehlo.concatenate"({", ".join(parts)}) {{dimension = 0 : i64}} '
        f": ({types}) -> tensor<{rank}xi32>"
    )
    return lines


def _dimension(part: str, axis: int, first: Type) -> list[str]:
    """Lines that read a dimension of the first operand."""
    return [
        f'{part}s = "stablehlo.get_dimension_size"(%arg0) '
        f"{{dimension = {axis} : i64}} : ({first}) -> tensor<i32>",
        f"{part} = stablehlo.reshape {part}s : (tensor<i32>) -> tensor<1xi32>",
    ]


def _divided_up(part: str, divisor: int) -> list[str]:
    """Lines that divide <part>n by a number of any size, rounding up."""
    return [
        f"{part}d = stablehlo.constant dense<{divisor}> : tensor<1xi32>",
        f"{part}q = stablehlo.divide {part}n, {part}d : tensor<1xi32>",
        f"{part}m = stablehlo.remainder {part}n, {part}d : tensor<1xi32>",
        f"{part}r = stablehlo.sign {part}m : tensor<1xi32>",
        f"{part} = stablehlo.add {part}q, {part}r : tensor<1xi32>",
    ]


@functools.lru_cache(maxsize=4096)
def custom_call(
    target: str,
    operands: tuple[Type, ...],
    results: tuple[Type, ...],
    attributes: tuple[tuple[str, bool | int | float], ...],
) -> str:
    """Writes a module that calls the handler `target` once.

    Args:
        target: The name under which the handler is registered.
        operands: Types of the handler's operands.
        results: Types of the results. An unknown dimension is the first operand's at the same
            place, or a `Quotient`.
        attributes: The call's attributes, in any order.

    Returns:
        The module's text.
    """
    dynamic = any(operand.dynamic for operand in operands)
    given = [(f"%arg{i}", str(operand)) for i, operand in enumerate(operands)]
    parameters = ", ".join(f"{name}: {kind}" for name, kind in given)
    kinds = ", ".join(map(str, results))
    config = ", ".join(f"{key} = {_attribute(value)}" for key, value in attributes)
    settings = [
        f'call_target_name = "{target}"',
        "api_version = 4 : i32",
        f"backend_config = {{{config}}}",
    ]
    body: list[str] = []
    if dynamic:
        for index, result in enumerate(results):
            body += _shape_operand(index, result, operands[0])
            given.append((f"%shape{index}", f"tensor<{len(result.shape)}xi32>"))
        indices = ", ".join(str(len(operands) + i) for i in range(len(results)))
        settings.append(
            f"indices_of_shape_operands = dense<[{indices}]> : tensor<{len(results)}xi64>"
        )
    body.append(
        f'%out:{len(results)} = "stablehlo.custom_call"({", ".join(name for name, _ in given)}) '
        f"{{{', '.join(settings)}}} : ({', '.join(kind for _, kind in given)}) -> ({kinds})"
    )
    outputs = ", ".join(f"%out#{i}" for i in range(len(results)))
    body.append(f"return {outputs} : {kinds}")
    header = " attributes {jax.uses_shape_polymorphism = true}" if dynamic else ""
    lines = "\n    ".join(body)
    return (
        f"module @keras_renorm{header} {{\n"
        f"  func.func public @main({parameters}) -> ({kinds}) {{\n"
        f"    {lines}\n  }}\n}}\n"
    )
