"""Tokens and tables: sections 4.2 and 4.3 of format.md.

A table shares 2^bits slots out among symbols; a stream (§4.4) finds a symbol by its slot. A frame has a set of tables for each
mode, and in a set the class of a word says which one is used.
"""

from bisect import bisect_right
from itertools import accumulate

from elements import Bits, need

MAX_ORIGIN = 2048
CLASSES = 16
SET_BYTES = 65_536


class Shape:
    """§4.2: how a number of up to `width` bits becomes a symbol and low bits."""

    def __init__(self, byte, width):
        self.direct, self.top, self.width = byte & 15, byte >> 4, width
        k, m = self.direct, self.top
        need(m <= k <= min(8, width), f"§4.2: token shape (direct {k}, top {m}) for {width} bits")
        self.symbols = (1 << k) + (width - k << m)
        need(self.symbols <= 256, f"§4.2: a token shape of {self.symbols} symbols")

    def low_bits(self, symbol):
        past = symbol - (1 << self.direct)
        return 0 if past < 0 else self.direct + (past >> self.top) - self.top

    def number(self, symbol, low):
        past = symbol - (1 << self.direct)
        if past < 0:
            return symbol
        leading = 1 << self.direct + (past >> self.top)
        return leading + ((past & (1 << self.top) - 1) << self.low_bits(symbol)) + low


class Table:
    """The slots 0 to 2^bits − 1, shared out from the lowest: `shares` are (symbol, frequency)."""

    def __init__(self, shares, bits):
        self.bits = bits
        self.shares = [(symbol, share) for symbol, share in shares if share]
        self.starts = [0, *accumulate(share for _, share in self.shares)]
        need(self.starts.pop() == 1 << bits, "§4.3: frequencies that do not add up")

    def find(self, slot):
        """The symbol that has the slot, its frequency and its first slot."""
        at = bisect_right(self.starts, slot) - 1
        return *self.shares[at], self.starts[at]


def frequencies(weights, whole):
    """§4.3, Weights to frequencies."""
    total = sum(weights)
    shares = [max(1, weight * whole // total) if weight else 0 for weight in weights]
    while sum(shares) > whole:
        shares[shares.index(max(shares))] -= 1
    shares[shares.index(max(shares))] += whole - sum(shares)
    return shares


def read_class_map(reader):
    """§4.3, Class map: the number of the table for each class."""
    steps = reader.fixed(2)
    need(steps & 1 == 0, "§4.3: bit 0 of a class map is set")
    return [*accumulate(steps >> k & 1 for k in range(CLASSES))]


class TokenTables:
    """§4.3, Token tables of numbers of up to `width` bits."""

    def __init__(self, reader, width, mapped=True):
        self.shape = Shape(reader.u8(), width)
        bits = reader.u8()
        need(10 <= bits <= 12, f"§2: tables of {bits} bits")
        self.table_of_class = read_class_map(reader) if mapped else [0] * CLASSES
        count = self.table_of_class[-1] + 1
        need(count * 4 << bits <= SET_BYTES, f"§2: {count} tables of {bits} bits are too large a set")
        # The bit stream tells its length only by being read: it is cut off what is left, then its whole bytes are taken.
        stream = Bits(reader.data[reader.at :], "tables")
        weights = [read_weights(stream, self.shape.symbols) for _ in range(count)]
        need(stream.take(-stream.at % 8) == 0, "§4.3: tables padded with a bit that is not zero")
        reader.take(stream.at // 8)
        self.tables = [Table(enumerate(frequencies(w, 1 << bits)), bits) for w in weights]

    def of_class(self, word_class):
        return self.tables[self.table_of_class[word_class]]


def read_weights(stream, symbols):
    """§4.3, A table."""
    first, last, order = stream.take(8), stream.take(8), stream.take(2)
    need(first <= last < symbols, f"§4.3: a table from symbol {first} to {last} of {symbols}")
    weights = [0] * symbols
    logarithm = 57
    for symbol in range(first, last + 1):
        bits = order
        while stream.take(1) == 0:
            bits += 1
            need(bits <= 8, "§4.3: an exp-Golomb number of more than 8 bits")
        step = (1 << bits) + stream.take(bits) - (1 << order)
        if step == 0:
            need(first < symbol < last, "§4.3: the first or last symbol of a table does not occur")
            continue
        t = step - 1
        logarithm += t // 2 if t % 2 == 0 else -(t + 1) // 2
        need(1 <= logarithm <= 65, f"§4.3: a logarithm of {logarithm}")
        weights[symbol] = (256, 304, 362, 431)[(logarithm - 1) % 4] << (logarithm - 1) // 4
    return weights


# 65536 · 2^(i/16), rounded.
ODDS = (65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752, 92682, 96785, 101070, 105545, 110218, 115098, 120194, 125515)


def change_probability(log_odds):
    """§4.3, Change tables: in 1/65536."""
    need(log_odds >= 1, "§4.3: a change table of log-odds 0")
    j = abs(log_odds - 224)
    p = (1 << 48) // ((1 << 16) + (ODDS[j % 16] << j // 16))
    if log_odds > 224:
        p = (1 << 32) - p
    return max(1, p >> 16)


class ChangeTables:
    """§4.3, Change tables, and the tables of §4.6 that come of them."""

    def __init__(self, reader):
        table_of_class = read_class_map(reader)
        probabilities = [change_probability(log_odds) for log_odds in reader.take(table_of_class[-1] + 1)]
        self.probability = [probabilities[table] for table in table_of_class]
        self.known = {}

    def first_change(self, classes, start):
        """§4.6, First change: of a group's elements, by the classes of their bases. The symbol None is "none changes"."""
        if (classes, start) not in self.known:
            left, shares = 1 << 14, []
            for j in range(start, len(classes)):
                share = 1 + ((left - 9 + j) * self.probability[classes[j]] >> 16)
                shares.append((j, share))
                left -= share
            self.known[classes, start] = Table([(None, left), *reversed(shares)], 14)
        return self.known[classes, start]


class Tables:
    """§4.3: the tables of a frame; None for what is not there."""

    def __init__(self, reader, dtype, residual_bits, fresh_by_given):
        flags = reader.u8()
        need(flags < 16, f"§4.3: table flags {flags}")
        need(not flags & 8 or flags & 1, "§4.3: magnitude tables without SPARSE")
        self.origin = self.changes = self.magnitudes = self.dense = self.fresh = self.fresh_origin = self.given_origin = None
        if flags & 3:
            self.origin = self._origin(reader)
        if flags & 1:
            self.changes = ChangeTables(reader)
        if flags & 8:
            self.magnitudes = TokenTables(reader, residual_bits)
        if flags & 2:
            self.dense = TokenTables(reader, residual_bits)
        if flags & 4:
            self.fresh_origin = self._origin(reader)
            if fresh_by_given:
                self.given_origin = self._origin(reader)
            self.fresh = TokenTables(reader, dtype.exponent_bits or dtype.bits, mapped=fresh_by_given)

    @staticmethod
    def _origin(reader):
        origin = reader.varint()
        need(origin <= MAX_ORIGIN, f"§4.3: an origin of {origin}")
        return origin
