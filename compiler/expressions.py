"""Check the symbolic sizes of a program, which PyTorch would hand to ``sympy.sympify``.

``sympify`` evaluates its text as Python, so a hostile size is a hostile program.  An exported
graph only writes calls of a few known functions over symbols and numbers, the form that SymPy's
``srepr`` prints: ``Add(Mul(Integer(2), Symbol('s0', positive=True, integer=True)), Integer(-1))``.
Older versions of PyTorch wrote ``2*s0 - 1``.  Both are taken apart, checked, and written anew, so
that what is evaluated is what was checked.
"""

from __future__ import annotations

import ast
import math
import re

MAX_LENGTH = 10_000
MAX_NODES = 2_000
MAX_POWER = 16

# The symbols that torch makes: backed, unbacked and floating-point sizes.
_SYMBOL = re.compile(r"(s|u|zf|zuf)[0-9]{1,5}")
_ASSUMPTIONS = frozenset([
    "positive", "negative", "nonnegative", "nonpositive", "zero", "nonzero", "integer",
    "rational", "real", "finite", "infinite", "extended_real", "commutative", "complex", "even",
    "odd",
])  # fmt: skip
_POWERS = frozenset(["Pow", "PowByNatural", "FloatPow", "LShift"])
_FUNCTIONS = _POWERS | frozenset([
    "Add", "Mul", "Rational", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv",
    "ModularIndexing", "RShift", "Where", "FloatTrueDiv", "IntTrueDiv", "CeilToInt", "FloorToInt",
    "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity",
    "IsNonOverlappingAndDenseIndicator", "Max", "Min", "Abs", "floor", "ceiling", "sqrt", "Eq",
    "Ne", "Gt", "Ge", "Lt", "Le", "Equality", "Unequality", "StrictGreaterThan", "StrictLessThan",
    "GreaterThan", "LessThan", "And", "Or", "Not", "Piecewise", "ExprCondPair", "Integer",
])  # fmt: skip
_CONSTANTS = frozenset(["true", "false", "oo", "int_oo", "nan"])
_OPERATORS = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.USub,
    ast.UAdd, ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip
_MAX_NUMBER = 1 << 64


def checked(text: object) -> str | None:
    """Return `text` written anew if it is arithmetic over the sizes of a program, else None."""
    if not isinstance(text, str) or len(text) > MAX_LENGTH or not text.isascii():
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES or not _arithmetic(tree.body):
            return None
        return ast.unparse(tree)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def is_symbol(text: object) -> bool:
    """Return whether `text` names one dynamic size, such as ``s0``."""
    return isinstance(text, str) and _SYMBOL.fullmatch(text) is not None


def _arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return _is_number(value)
        case ast.Name(id=name):
            return is_symbol(name) or name in _CONSTANTS
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _arithmetic(left) and _is_small(right)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _OPERATORS) and _arithmetic(left) and _arithmetic(right)
        case ast.UnaryOp(op=op, operand=operand):
            return isinstance(op, _OPERATORS) and _arithmetic(operand)
        case ast.Compare(left=left, ops=ops, comparators=others):
            known = all(isinstance(op, _OPERATORS) for op in ops)
            return known and all(_arithmetic(part) for part in (left, *others))
        case ast.Tuple(elts=parts):  # a branch of Piecewise in the older form
            return all(_arithmetic(part) for part in parts)
        case ast.Call(func=ast.Name(id=name)):
            return _call(name, node)
    return False


def _call(name: str, node: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    plain = {key: value.value for key, value in keywords.items() if isinstance(value, ast.Constant)}
    if len(plain) != len(keywords):
        return False
    match name, node.args:
        case "Symbol", [ast.Constant(value=text)]:
            flags = all(isinstance(value, bool) for value in plain.values())
            return is_symbol(text) and flags and set(plain) <= _ASSUMPTIONS
        case "Float", [ast.Constant(value=number)]:
            return (
                _is_float_text(number)
                and set(plain) <= {"precision"}
                and (plain.get("precision", 53) in range(1, 257))
            )
    if name not in _FUNCTIONS or keywords:
        return False
    if name in _POWERS and (len(node.args) != 2 or not _is_small(node.args[1])):
        return False
    return all(_arithmetic(part) for part in node.args)


def _is_small(node: ast.expr) -> bool:
    """Return whether `node` is an exponent whose power cannot fill the memory."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_small(operand)
        case ast.Call(func=ast.Name(id="Integer"), args=[argument], keywords=[]):
            return _is_small(argument)
        case ast.Call(func=ast.Name(id="Rational"), args=[top, bottom], keywords=[]):
            return _is_small(top) and _is_small(bottom)
        case ast.Call(func=ast.Name(id="Symbol")) | ast.Name():
            return _arithmetic(node)
        case ast.Constant(value=value):
            return _is_number(value, MAX_POWER)
    return False


def _is_number(value: object, most: int = _MAX_NUMBER) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= most


def _is_float_text(value: object) -> bool:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9.]{1,80}(e[+-]?[0-9]{1,3})?", value):
        return math.isfinite(float(value))  # ValueError for two points is caught above
    return _is_number(value)
