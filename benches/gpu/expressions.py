"""What an expression of an artifact is worth: `compiler/src/expr/eval.rs` and `rand.rs` again. Standard library only.

Comes in: nodes, a value for each variable. Goes out: an int, float or bool. What holds: ints wrap at 64 bits, floats are f64, branches
not taken are not evaluated. Deliberately not done: loads; sizes, grids and tables have none.
"""

import math
import struct

WORD = (1 << 32) - 1


def wrap(x):
    """An int of 64 bits."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def round32(x):
    """The nearest f32."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def to_int(x):
    """Toward zero, saturating; NaN gives 0."""
    if math.isnan(x):
        return 0
    return max(-(1 << 63), min((1 << 63) - 1, int(max(-1e30, min(1e30, x)))))


def guarded(f, at_overflow=math.inf):
    """`f`, with IEEE's answers where Python has errors."""

    def safe(*x):
        try:
            return f(*x)
        except OverflowError:
            return at_overflow
        except (ValueError, ZeroDivisionError):
            return math.nan

    return safe


def divide(a, b):
    """IEEE division."""
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def power(a, b):
    """IEEE power, for what Python refuses."""
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        return math.inf if a == 0 else math.nan


def logarithm(f):
    """-inf at and below 0."""
    return lambda x: -math.inf if x <= 0 else f(x)


def rounded(f):
    """`floor` and `ceil` of what is finite."""
    return lambda x: float(f(x)) if math.isfinite(x) else x


root = guarded(math.sqrt)
exp = guarded(math.exp)
UNARY = {
    "floor": rounded(math.floor),
    "ceil": rounded(math.ceil),
    "sqrt": root,
    "rsqrt": lambda x: divide(1.0, root(x)),
    "exp": exp,
    "exp2": guarded(lambda x: math.pow(2.0, x)),
    "log": logarithm(math.log),
    "log2": logarithm(math.log2),
    "tanh": math.tanh,
    "sigmoid": lambda x: divide(1.0, 1.0 + exp(-x)),
    "sin": guarded(math.sin),
    "cos": guarded(math.cos),
    "to_float": float,
    "to_int": to_int,
    "round32": round32,
    "not": lambda x: not x,
    "neg": lambda x: wrap(-x) if type(x) is int else -x,
    "abs": lambda x: wrap(abs(x)) if type(x) is int else abs(x),
}


def arithmetic(f):
    """Wrapping for ints."""
    return lambda a, b: wrap(f(a, b)) if type(a) is int else f(a, b)


def floor_div(a, b):
    """0 where the divisor is 0."""
    return wrap(a // b) if b else 0


BINARY = {
    "add": arithmetic(lambda a, b: a + b),
    "sub": arithmetic(lambda a, b: a - b),
    "mul": arithmetic(lambda a, b: a * b),
    "div": divide,
    "idiv": floor_div,
    "mod": lambda a, b: wrap(a - b * floor_div(a, b)),
    "min": lambda a, b: b if b < a else a,
    "max": lambda a, b: b if b > a else a,
    "pow": power,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def philox(counter, key):
    """Philox4x32-10."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & WORD, (p >> 32) ^ c[3] ^ k[1], p & WORD]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return c


def rand_block_columns(row, ncols, head, n, seed):
    """The n distinct columns of 0..ncols drawn for (seed, head, row), in the order drawn."""
    key, chosen = (seed & WORD, seed >> 32 & WORD), []
    for t in range(max(0, min(n, max(ncols, 0)))):
        words = philox((t // 4, row & WORD, head & WORD, 1), key)
        column = words[t % 4] % (ncols - t)
        for taken in sorted(chosen):
            column += taken <= column
        chosen.append(column)
    return chosen


class Evaluator:
    """Values of an artifact's nodes; `values` holds those of its variables, by number."""

    def __init__(self, nodes, values):
        self.nodes, self.values, self.drawn = nodes, values, {}

    def __call__(self, at):
        """The value of a node."""
        kind, *x = self.nodes[at]
        match kind:
            case "int" | "float" | "bool":
                return x[0]
            case "var":
                return self.values[x[0]]
            case "unary":
                return UNARY[x[0]](self(x[1]))
            case "binary" if x[0] == "and":
                return self(x[1]) and self(x[2])
            case "binary" if x[0] == "or":
                return self(x[1]) or self(x[2])
            case "binary":
                return BINARY[x[0]](self(x[1]), self(x[2]))
            case "select":
                return self(x[1] if self(x[0]) else x[2])
            case "rand_block" | "rand_block_except":
                return self.random_block(at, x[0])
        raise ValueError("an expression of sizes or tables reads a tensor")

    def random_block(self, at, operands):
        """Whether a column is among those drawn for a row."""
        row, column, ncols, head, n, seed = (self(x) for x in operands[:6])
        key = (at, row, ncols, head, n, seed)
        if key not in self.drawn:
            left = list(range(ncols))
            if len(operands) == 7:
                left = self.allowed(operands[1], operands[6], ncols)
            self.drawn[key] = {left[c] for c in rand_block_columns(row, len(left), head, n, seed)}
        return column in self.drawn[key]

    def allowed(self, column, excluded, ncols):
        """The columns for which the condition does not hold."""
        var = self.nodes[column][1]
        before, left = self.values[var], []
        for c in range(ncols):
            self.values[var] = c
            if not self(excluded):
                left.append(c)
        self.values[var] = before
        return left

    def text(self, at, vars):
        """A size for people to read."""
        kind, *x = self.nodes[at]
        match kind:
            case "binary":
                return f"({self.text(x[1], vars)} {x[0]} {self.text(x[2], vars)})"
            case "unary":
                return f"{x[0]}({self.text(x[1], vars)})"
            case "select":
                return f"({self.text(x[0], vars)} ? {self.text(x[1], vars)} : {self.text(x[2], vars)})"
            case "var":
                return vars[x[0]].name
        return str(x[0])
