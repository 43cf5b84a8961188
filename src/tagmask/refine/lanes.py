"""A few floats side by side in vector registers, for compiled loops over short rows such as the classes of a pixel.

LLVM turns a loop over 3 or 21 numbers into a loop with a preamble, a vector part and a tail, checked for overlap every
time; here the row is one value. ``Lanes`` live only inside functions compiled by numba: `load` and `store` move them
from and to the rows of a C-contiguous float32 array, ``+ - *`` work lane by lane, and the rest is below. How many there
are is told by a tuple of so many zeros (``lanes(8)``), because numba compiles for each length of a tuple anew.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_CONTRACT = ("contract",)  # a product and a sum may become one fused instruction


def lanes(count: int) -> tuple[np.float32, ...]:
    """Return the tuple that stands for ``count`` lanes in the functions below."""
    return (np.float32(0),) * count


class Lanes(types.Type):
    """The numba type of ``count`` float32 side by side."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"Lanes({count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes_type: Lanes) -> None:
        super().__init__(manager, lanes_type, ir.VectorType(_FLOAT, lanes_type.count))


def _arithmetic(function: Any, instruction: str) -> None:
    """Let ``function`` take two ``Lanes`` of one length."""

    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            left, right = args
            return signature(left, left, right) if isinstance(left, Lanes) and left == right else None

    @lower_builtin(function, Lanes, Lanes)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=_CONTRACT)


for _function, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _arithmetic(_function, _instruction)


def inside(generator: Callable[..., Any]) -> Any:
    """Make ``numba.extending.intrinsic`` of a function, whose own signature is not the one that callers see."""
    return intrinsic(generator)


def _constant(vector: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(vector, [float(np.float32(value))] * vector.count)


def _row(context: Any, builder: Any, array_type: Any, array: Any, row: Any, start: Any, vector: ir.VectorType) -> Any:
    """Return the address of ``array[row, start:start + lanes]`` as that of a vector."""
    held = context.make_array(array_type)(context, builder, array)
    width = cgutils.unpack_tuple(builder, held.shape, 2)[1]
    offset = builder.add(builder.mul(row, width), start)
    return builder.bitcast(builder.gep(held.data, [offset]), vector.as_pointer())


@inside
def load(typing: Any, array: Any, row: Any, start: Any, lanes: Any) -> Any:
    """``load(array, row, start, lanes)``: the lanes ``array[row, start:start + len(lanes)]``, unchecked."""
    kind = Lanes(lanes.count)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_FLOAT, kind.count)
        return builder.load(_row(context, builder, sig.args[0], args[0], args[1], args[2], vector), align=4)

    return kind(array, types.intp, types.intp, lanes), generate


@inside
def store(typing: Any, array: Any, row: Any, start: Any, values: Any) -> Any:
    """``store(array, row, start, values)``: write the lanes to ``array[row, start:...]``, unchecked."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _row(context, builder, sig.args[0], args[0], args[1], args[2], args[3].type)
        builder.store(args[3], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, values), generate


@inside
def fill(typing: Any, value: Any, lanes: Any) -> Any:
    """``fill(value, lanes)``: the same number in every lane."""
    kind = Lanes(lanes.count)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(_FLOAT, kind.count)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], _INT(0))
        mask = ir.Constant(ir.VectorType(_INT, kind.count), [0] * kind.count)
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)

    return kind(types.float32, lanes), generate


def _call(builder: Any, name: str, result: Any, *operands: Any, flags: tuple[str, ...] = ()) -> Any:
    """Call LLVM's own function ``name`` of the vector among the ``operands``."""
    vector = operands[-1].type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(result, [operand.type for operand in operands]),
        f"llvm.{name}.v{vector.count}f32",
    )
    return builder.call(function, operands, fastmath=flags)


@inside
def larger(typing: Any, left: Any, right: Any) -> Any:
    """``larger(left, right)``: the larger of two numbers in every lane; neither may be NaN."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return left(left, right), generate


@inside
def largest(typing: Any, values: Any) -> Any:
    """``largest(values)``: the largest lane, float32."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "vector.reduce.fmax", _FLOAT, args[0], flags=("nnan", "nsz"))

    return types.float32(values), generate


@inside
def total(typing: Any, values: Any) -> Any:
    """``total(values)``: the sum of the lanes in any order, float32."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(_FLOAT, -0.0)
        return _call(builder, "vector.reduce.fadd", _FLOAT, zero, args[0], flags=("reassoc",))

    return types.float32(values), generate


@inside
def exponential(typing: Any, values: Any) -> Any:
    """``exponential(x)``: exp(x) of lanes x <= 0 to within 2e-7 of it, 0 below -87 where float32 would be subnormal.

    exp(x) = 2^n exp(r): 2^n is written as the exponent bits of a float, r in [-ln 2 / 2, ln 2 / 2] goes through a
    polynomial. Constants: Moshier, Cephes, expf.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = args[0].type
        number: Callable[[float], ir.Constant] = lambda value: _constant(vector, value)  # noqa: E731

        def times_plus(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)

        normal = builder.fcmp_ordered(">=", args[0], number(-87))
        x = builder.select(normal, args[0], number(-87))
        power = _call(builder, "floor", vector, times_plus(x, number(1.44269504), number(0.5)))
        r = times_plus(power, number(2.12194440e-4), times_plus(power, number(-0.693359375), x))
        y = number(1.9875691500e-4)
        for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1, 1):
            y = times_plus(y, r, number(coefficient))
        integers = ir.VectorType(_INT, vector.count)
        exponent = builder.add(builder.fptosi(power, integers), ir.Constant(integers, [127] * vector.count))
        bits = builder.shl(exponent, ir.Constant(integers, [23] * vector.count))
        scaled = builder.fmul(y, builder.bitcast(bits, vector))
        return builder.select(normal, scaled, number(0))

    return values(values), generate
