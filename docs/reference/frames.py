"""Decoding one frame, which is one slice of a tensor: section 4 of format.md.

    frame ── header, tables, modes ──┬─ tile ── SAME     the base
                                     ├─ tile ── SPARSE   masks of what changed, then the changes ── one stream
                                     ├─ tile ── DENSE    a distance for each element ────────────── a stream a block
                                     ├─ tile ── FRESH    an exponent or integer for each element ── a stream a block
                                     └─ tile ── RAW      the bytes

The code follows the text line by line and is slow: about a million elements take ten seconds.
"""

from elements import Bits, Reader, dtype_of, need

SLICE_BYTES = 1 << 25
TILE_WORDS = 65_536
MAX_WORDS = 1 << 48
MAX_LANES = 32
MAX_ORIGIN = 2048
SAME, SPARSE, DENSE, FRESH, RAW = range(5)
MODE_NAMES = ["SAME", "SPARSE", "DENSE", "FRESH", "RAW"]


class Shape:
    """§4.2: how a number of up to `width` bits becomes a symbol and raw bits."""

    def __init__(self, byte, width):
        self.direct, self.top, self.width = byte & 15, byte >> 4, width
        k, m = self.direct, self.top
        need(m <= k <= min(8, width), f"§4.2: token shape (direct {k}, top {m}) for {width} bits")
        self.symbols = (1 << k) + (width - k << m)
        need(self.symbols <= 256, f"§4.2: a token shape of {self.symbols} symbols")

    def raw_bits(self, symbol):
        past = symbol - (1 << self.direct)
        return 0 if past < 0 else self.direct + (past >> self.top) - self.top

    def number(self, symbol, raw):
        past = symbol - (1 << self.direct)
        if past < 0:
            return symbol
        leading = 1 << self.direct + (past >> self.top)
        return leading + ((past & (1 << self.top) - 1) << self.raw_bits(symbol)) + raw


class Table:
    """§4.4: the symbols' shares of 2^bits slots. `sparse` is set for the ten-symbol mask alphabet (§4.3)."""

    def __init__(self, weights, bits, sparse=False):
        self.bits, self.sparse = bits, sparse
        self.frequency = frequencies(weights, 1 << bits)
        self.first_slot = [sum(self.frequency[:symbol]) for symbol in range(len(weights))]
        self.symbol_of_slot = [symbol for symbol, share in enumerate(self.frequency) for _ in range(share)]


def frequencies(weights, whole):
    """§4.3, Weights to frequencies."""
    total = sum(weights)
    shares = [max(1, weight * whole // total) if weight else 0 for weight in weights]
    while sum(shares) > whole:
        shares[shares.index(max(shares))] -= 1
    shares[shares.index(max(shares))] += whole - sum(shares)
    return shares


class TableSet:
    """§4.3: tables, and which of them each of the 16 classes uses."""

    def __init__(self, tables, table_of_class, shape=None):
        self.tables, self.table_of_class, self.shape = tables, table_of_class, shape

    def of_class(self, word_class):
        return self.tables[self.table_of_class[word_class]]


def read_class_map(reader, count):
    if count == 1:
        return [0] * 16
    both = [(byte & 15, byte >> 4) for byte in reader.take(8)]
    numbers = [number for pair in both for number in pair]
    need(max(numbers) < count, f"§4.3: the class map names table {max(numbers)} of {count}")
    return numbers


def read_token_tables(reader, width):
    shape = Shape(reader.u8(), width)
    byte = reader.u8()
    bits, count = byte & 15, (byte >> 4) + 1
    need(10 <= bits <= 12, f"§2: tables of {bits} bits")
    need(count * 4 << bits <= 65_536, f"§2: {count} tables of {bits} bits are too large a set")
    table_of_class = read_class_map(reader, count)
    # The bit stream tells its length only by being read: it is cut off what is left, then its whole bytes are taken.
    stream = Bits(reader.data[reader.at :], "tables")
    tables = [Table(read_weights(stream, shape.symbols), bits) for _ in range(count)]
    need(stream.take(-stream.at % 8) == 0, "§4.3: tables padded with a bit that is not zero")
    reader.take(stream.at // 8)
    return TableSet(tables, table_of_class, shape)


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
        half = step - 1
        logarithm += half // 2 if half % 2 == 0 else -(half + 1) // 2
        need(1 <= logarithm <= 65, f"§4.3: a logarithm of {logarithm}")
        weights[symbol] = (256, 304, 362, 431)[(logarithm - 1) % 4] << (logarithm - 1) // 4
    return weights


# 65536 · 2^(i/16), rounded.
ODDS = (65536, 68438, 71468, 74632, 77936, 81386, 84990, 88752, 92682, 96785, 101070, 105545, 110218, 115098, 120194, 125515)


def mask_table(log_odds):
    """§4.3, Mask alphabets: eight bits that are 1 with the same probability. None if all bits are 0."""
    if log_odds == 0:
        return None
    j = abs(log_odds - 224)
    one = (1 << 48) // ((1 << 16) + (ODDS[j % 16] << j // 16))
    if log_odds > 224:
        one = (1 << 32) - one

    def weight(ones):
        u = 1 << 32
        for bit in range(8):
            u = u * (one if bit < ones else (1 << 32) - one) >> 32
        return max(1, u)

    if log_odds > 146:
        return Table([weight(byte.bit_count()) for byte in range(256)], 12)
    none, single = weight(0), weight(1)
    escape = max(1, (1 << 32) - none - 8 * single)
    return Table([none, *[single] * 8, escape], 12, sparse=True)


def read_mask_tables(reader):
    count = reader.u8()
    need(1 <= count <= 16, f"§4.3: {count} mask tables")
    table_of_class = read_class_map(reader, count)
    return TableSet([mask_table(log_odds) for log_odds in reader.take(count)], table_of_class)


class Tables:
    """§4.3: the tables of a frame; None for what is not there."""

    def __init__(self, reader, dtype):
        flags = reader.u8()
        need(flags < 16, f"§4.3: table flags {flags}")
        need(not flags & 8 or flags & 1, "§4.3: magnitude tables without SPARSE")
        self.origin = self.masks = self.magnitudes = self.dense = self.fresh = self.fresh_origin = None
        if flags & 3:
            self.origin = self._origin(reader)
        if flags & 1:
            self.masks = read_mask_tables(reader)
        if flags & 8:
            self.magnitudes = read_token_tables(reader, dtype.bits)
        if flags & 2:
            self.dense = read_token_tables(reader, dtype.bits)
        if flags & 4:
            self.fresh_origin = self._origin(reader)
            self.fresh = read_token_tables(reader, dtype.exponent_bits or dtype.bits)

    @staticmethod
    def _origin(reader):
        origin = reader.varint()
        need(origin <= MAX_ORIGIN, f"§4.3: an origin of {origin}")
        return origin


class Stream:
    """§4.4: interleaved rANS. Symbols come first, with `symbol`; then the raw bits, which `raw_bits` hands out."""

    def __init__(self, reader, elements, escapes=0):
        self.lanes = min(MAX_LANES, 1 << max(0, max(1, elements).bit_length() - 1 - 6))
        words = reader.count(2)
        self.states = [reader.fixed(4) for _ in range(self.lanes)]
        need(all(1 << 15 <= x < 1 << 31 for x in self.states), "§4.4: a state out of its range")
        self.words = Reader(reader.take(2 * words), "words of a stream")
        self.escapes = Reader(reader.take(escapes), "escapes")
        self.raw = reader.rest()
        self.decoded = 0

    def symbol(self, table):
        lane = self.decoded % self.lanes
        self.decoded += 1
        x = self.states[lane]
        slot = x & (1 << table.bits) - 1
        symbol = table.symbol_of_slot[slot]
        x = table.frequency[symbol] * (x >> table.bits) + slot - table.first_slot[symbol]
        if x < 1 << 15:
            x = x << 16 | self.words.fixed(2)
        self.states[lane] = x
        return symbol

    def raw_bits(self):
        """After the last symbol: 15 bits that each state has left, then the raw bytes."""
        self.words.end()
        self.escapes.end()
        head = 0
        for lane, x in enumerate(self.states):
            need(x >> 15 == 1, f"§4.4: lane {lane} ends in state {x}")
            head |= x - (1 << 15) << 15 * lane
        head_bits = 15 * self.lanes
        both = head | int.from_bytes(self.raw, "little") << head_bits
        size = (head_bits + 7) // 8 + len(self.raw)
        return Bits(both.to_bytes(size, "little"), "§4.4 raw bits", head_bits + 8 * len(self.raw))

    def end(self, bits):
        need(not self.raw or bits.left() < 8, f"§4.4: {bits.left()} raw bits are left over")
        need(bits.take(bits.left()) == 0, "§4.4: raw bits padded with a bit that is not zero")


def signed(sign, magnitude, dtype):
    """§3, Residual."""
    need(magnitude <= 1 << dtype.bits - 1, f"§3: a magnitude of {magnitude} in {dtype.bits} bits")
    return -magnitude if sign else magnitude


def decode_sparse(body, base, dtype, tables):
    """§4.6: which elements change is told by masks, one a table; then how much each of them changes."""
    reader = Reader(body, "§4.6 a SPARSE tile")
    stream = Stream(reader, len(base), escapes=reader.count(1))
    masks, magnitudes = tables.masks, tables.magnitudes
    classes = [dtype.word_class(word, tables.origin) for word in base]
    changes = []
    for number, table in enumerate(masks.tables):
        members = [index for index, c in enumerate(classes) if masks.table_of_class[c] == number]
        if table is None:
            continue
        for at in range(0, len(members), 8):
            byte = read_mask_byte(stream, table)
            eight = members[at : at + 8]
            need(byte >> len(eight) == 0, "§4.6: a mask has a bit behind its last element")
            changes += [index for bit, index in enumerate(eight) if byte >> bit & 1]
        while stream.decoded % stream.lanes:
            need(stream.symbol(table) == 0, "§4.6: a mask padded with a symbol that is not 0")
    changes.sort()
    need(not changes or magnitudes, "§4.6: elements change, and there are no magnitude tables")
    symbols = [stream.symbol(magnitudes.of_class(classes[index])) for index in changes]
    bits = stream.raw_bits()
    words = list(base)
    for index, symbol in zip(changes, symbols):
        sign = bits.take(1)
        magnitude = magnitudes.shape.number(symbol, bits.take(magnitudes.shape.raw_bits(symbol)))
        need(magnitude != 0, "§4.6: a changed element with magnitude 0")
        words[index] = dtype.add(base[index], signed(sign, magnitude, dtype))
    stream.end(bits)
    return words


def read_mask_byte(stream, table):
    symbol = stream.symbol(table)
    if not table.sparse:
        return symbol
    if symbol < 9:
        return 1 << symbol >> 1
    byte = stream.escapes.u8()
    need(byte.bit_count() >= 2, f"§4.6: the escape byte {byte} has a symbol of its own")
    return byte


def decode_dense(stream, base, dtype, tables):
    """§4.5: a block in which every element has its distance from the base."""
    dense = tables.dense
    symbols = [stream.symbol(dense.of_class(dtype.word_class(word, tables.origin))) for word in base]
    bits = stream.raw_bits()
    words = []
    for word, symbol in zip(base, symbols):
        # Symbol 0 is the number 0, and no other is.
        sign = bits.take(1) if symbol else 0
        magnitude = dense.shape.number(symbol, bits.take(dense.shape.raw_bits(symbol)))
        words.append(dtype.add(word, signed(sign, magnitude, dtype)))
    stream.end(bits)
    return words


def decode_fresh(stream, base, dtype, tables):
    """§4.5: a block that does without its base: exponents or integers, and what else makes up the words."""
    fresh = tables.fresh
    symbols = [stream.symbol(fresh.tables[0]) for _ in base]
    bits = stream.raw_bits()
    words = []
    for symbol in symbols:
        number = fresh.shape.number(symbol, bits.take(fresh.shape.raw_bits(symbol)))
        if dtype.layout == "float":
            exponent = (tables.fresh_origin - number) % (1 << dtype.exponent_bits)
            mantissa_and_sign = bits.take(dtype.mantissa_bits + 1)
            mantissa = mantissa_and_sign % (1 << dtype.mantissa_bits)
            sign = mantissa_and_sign >> dtype.mantissa_bits
            words.append(sign << dtype.bits - 1 | exponent << dtype.mantissa_bits | mantissa)
        elif dtype.layout == "signed":
            words.append((number >> 1 if number % 2 == 0 else -(number >> 1) - 1) % (1 << dtype.bits))
        else:
            words.append(number)
    stream.end(bits)
    return words


def decode_blocks(decode_block, body, base, block_words, dtype, tables):
    """§4.5: the lengths of all blocks but the last, then the blocks."""
    reader = Reader(body, "§4.5 a tile of blocks")
    starts = range(0, len(base), block_words)
    sizes = [reader.varint() for _ in starts[1:]]
    words = []
    for start, size in zip(starts, [*sizes, None]):
        block = Reader(reader.rest() if size is None else reader.take(size), "§4.5 a block")
        part = base[start : start + block_words]
        words += decode_block(Stream(block, len(part)), part, dtype, tables)
    return words


class Frame:
    """§4.1: a frame's header, read and checked; `decode` gives the bytes of the slice."""

    def __init__(self, data):
        reader = self.reader = Reader(data, "§4.1 a frame")
        need((version := reader.u8()) == 0, f"§4.1: a frame of version {version}, this reader knows 0")
        self.dtype = dtype_of(reader.u8(), "a frame")
        flags = reader.u8()
        need(flags in (0, 1), f"§4.1: frame flags {flags}")
        self.is_delta = flags == 1
        self.tensor_words = reader.varint()
        need(self.tensor_words <= MAX_WORDS, f"§2: a tensor of {self.tensor_words} elements")
        self.number = reader.varint()
        self.tensor_bytes = self.tensor_words * self.dtype.word_bytes
        # §1: an empty tensor has one empty slice.
        self.slices = max(1, -(-self.tensor_bytes // SLICE_BYTES))
        need(self.number < self.slices, f"§4.1: slice {self.number} of {self.slices}")
        self.bytes = min(SLICE_BYTES, self.tensor_bytes - self.number * SLICE_BYTES)
        self.base_start = reader.take(4) if self.is_delta else None
        block_log2, group_log2 = reader.u8(), reader.u8()
        need(12 <= block_log2 <= 16, f"§4.1: block_log2 {block_log2}")
        need(group_log2 <= 16, f"§4.1: group_log2 {group_log2}")
        self.block_words = 1 << block_log2
        words = self.bytes // self.dtype.word_bytes
        self.tile_words = [min(TILE_WORDS, words - start) for start in range(0, words, TILE_WORDS)]
        groups = -(-len(self.tile_words) // (1 << group_log2))
        self.digests = [reader.take(32) for _ in range(groups)] if self.slices > 1 or groups > 1 else []
        self.tables = Tables(reader, self.dtype)
        directory = [reader.varint() for _ in self.tile_words]
        self.modes = [entry & 7 for entry in directory]
        for mode, entry, words in zip(self.modes, directory, self.tile_words):
            need(mode <= RAW, f"§4.1: tile mode {mode}")
            self._check_tables(mode)
            if mode in (SAME, RAW):
                size = 0 if mode == SAME else words * self.dtype.word_bytes
                need(entry >> 3 == size, f"§4.7: a body of {entry >> 3} bytes, expected {size}")
        self.bodies = [reader.take(entry >> 3) for entry in directory]
        reader.end()

    def _check_tables(self, mode):
        tables = self.tables
        there = {SPARSE: tables.masks, DENSE: tables.dense, FRESH: tables.fresh}
        need(mode not in there or there[mode], f"§4.3: a {MODE_NAMES[mode]} tile without its tables")

    def decode(self, base):
        """The slice. `base` is the same slice of the base tensor; None for an anchor."""
        need((base is not None) == self.is_delta, "§4.1: a delta needs a base, an anchor has none")
        base = bytes(self.bytes) if base is None else base
        need(len(base) == self.bytes, f"§1: a base slice of {len(base)} bytes for one of {self.bytes}")
        parts, at = [], 0
        for mode, body, words in zip(self.modes, self.bodies, self.tile_words):
            size = words * self.dtype.word_bytes
            parts.append(self._decode_tile(mode, body, base[at : at + size]))
            at += size
        return b"".join(parts)

    def _decode_tile(self, mode, body, base):
        if mode == SAME:
            return base
        if mode == RAW:
            return body
        words = self.dtype.words(base)
        if mode == SPARSE:
            return self.dtype.data(decode_sparse(body, words, self.dtype, self.tables))
        decode_block = decode_dense if mode == DENSE else decode_fresh
        return self.dtype.data(decode_blocks(decode_block, body, words, self.block_words, self.dtype, self.tables))
