"""Decoding one tile: sections 4.4 to 4.7 of format.md.

    tile ─┬─ SAME      the base
          ├─ SPARSE ─┐
          ├─ DENSE ──┼─ blocks, each ── states | words      a stream: up to 32 coders that take turns, in rounds
          ├─ FRESH ──┘                  and raw bytes of FRESH
          └─ RAW       the bytes

The code follows the text line by line and is slow: a million elements take about four seconds.
"""

from elements import Bits, Reader, need

SAME, SPARSE, DENSE, FRESH, RAW = range(5)
MODE_NAMES = ["SAME", "SPARSE", "DENSE", "FRESH", "RAW"]
SEGMENT, GROUP = 4096, 8
SEED_BITS = 15


def pad(reader):
    """§4.1, pad. Bodies and blocks start at even offsets from the frame's start, so offsets in them will do."""
    need(reader.at % 2 == 0 or reader.u8() == 0, f"§4.1 {reader.what}: a pad that is not zero")


class Stream:
    """§4.4: `lanes` states, and the words that they take when they run low."""

    def __init__(self, reader, lanes, bytes_behind=0):
        halves = [byte >> shift & 15 for byte in reader.take((lanes + 1) // 2) for shift in (0, 4)]
        need(not any(halves[lanes:]), "§4.4: a half byte behind the last lane is not 0")
        sizes = [SEED_BITS + k for k in halves[:lanes]]
        bits = Bits(reader.take((sum(sizes) + 7) // 8), "states")
        self.states = [(1 << size) + bits.take(size) for size in sizes]
        need(bits.take(bits.left()) == 0, "§4.4: states padded with a bit that is not zero")
        pad(reader)
        size = reader.left() - bytes_behind
        need(size >= 0 and size % 2 == 0, f"§4.4: {size} bytes of words")
        self.words = Reader(reader.take(size), "the words of a stream")

    def _refill(self, lanes):
        """Step 2."""
        for lane in lanes:
            if self.states[lane] < 1 << 15:
                self.states[lane] = self.states[lane] << 16 | self.words.fixed(2)

    def round(self, takers, shape=None):
        """A round. `takers`, by ascending lane: (lane, table, whether symbols other than 0 carry a sign).

        Returns a (symbol, sign) each, or (number, sign) if the symbols are tokens of a `shape`; a sign not carried is None.
        """
        symbols, signs, lanes = [], [], [lane for lane, _, _ in takers]
        for lane, table, carries_sign in takers:
            x = self.states[lane]
            slot = x % (1 << table.bits)
            symbol, frequency, start = table.find(slot)
            x = frequency * (x >> table.bits) + slot - start
            sign = None
            if carries_sign and symbol != 0:
                sign, x = x % 2, x >> 1
            self.states[lane] = x
            symbols.append(symbol)
            signs.append(sign)
        self._refill(lanes)
        if shape is None:
            return list(zip(symbols, signs))
        return list(zip(self._numbers(lanes, symbols, shape), signs))

    def _numbers(self, lanes, symbols, shape):
        """Step 3."""
        wanted = [shape.low_bits(symbol) for symbol in symbols]
        low, done = [0] * len(lanes), 0
        while lacking := [at for at, bits in enumerate(wanted) if bits > done]:
            for at in lacking:
                x, take = self.states[lanes[at]], min(15, wanted[at] - done)
                low[at] |= x % (1 << take) << done
                self.states[lanes[at]] = x >> take
            self._refill(lanes[at] for at in lacking)
            done += 15
        return [shape.number(symbol, bits) for symbol, bits in zip(symbols, low)]

    def seeds(self):
        """After the last round: the bits that the states have left."""
        self.words.end()
        seeds = 0
        for lane, x in enumerate(self.states):
            need(x >> SEED_BITS == 1, f"§4.4: lane {lane} ends in state {x}")
            seeds |= x % (1 << SEED_BITS) << SEED_BITS * lane
        return Bits(seeds.to_bytes(len(self.states) * 2, "little"), "seeds", SEED_BITS * len(self.states))


def no_more(seeds):
    need(seeds.take(seeds.left()) == 0, "§4.4: a seed that is not used is not 0")


def in_rounds(items, lanes):
    """Cuts a list into rounds, of which each but the last has all lanes."""
    return (items[at : at + lanes] for at in range(0, len(items), lanes))


def rounds_of_words(count, lanes, word_bits):
    """§4.5, Order of elements: for each round, (lane, element)."""
    g = max(1, 32 // word_bits)
    for first in range(0, count, g * lanes):
        for j in range(g):
            members = [(lane, first + g * lane + j) for lane in range(lanes)]
            if members := [(lane, element) for lane, element in members if element < count]:
                yield members


def decode_dense(reader, lanes, start, tile):
    """§4.5: every element of the block has its distance from the base."""
    stream, dense = Stream(reader, lanes), tile.tables.dense
    words = [None] * tile.block_words(start)
    for members in rounds_of_words(len(words), lanes, tile.dtype.bits):
        takers = [(lane, dense.of_class(tile.classes[start + element]), True) for lane, element in members]
        for (_, element), (magnitude, sign) in zip(members, stream.round(takers, dense.shape)):
            words[element] = tile.moved(start + element, magnitude, sign)
    no_more(stream.seeds())
    return words


def decode_fresh(reader, lanes, start, tile):
    """§4.5: a block that does without its base: exponents or integers, and what else makes up floats."""
    dtype, fresh = tile.dtype, tile.tables.fresh
    count = tile.block_words(start)
    word_raw_bits = dtype.mantissa_bits + 1 if dtype.layout == "float" else 0
    raw_bits = count * word_raw_bits
    seed_bits = min(raw_bits, SEED_BITS * lanes)
    raw_bytes = (raw_bits - seed_bits + 7) // 8
    stream = Stream(reader, lanes, raw_bytes + raw_bytes % 2)
    numbers = [None] * count
    for members in rounds_of_words(count, lanes, dtype.bits):
        takers = [(lane, fresh.of_class(tile.given_classes[start + element]), False) for lane, element in members]
        for (_, element), (number, _) in zip(members, stream.round(takers, fresh.shape)):
            numbers[element] = number
    seeds, behind = stream.seeds(), Bits(reader.take(raw_bytes), "raw bytes", raw_bits - seed_bits)
    raw = behind.take(raw_bits - seed_bits) | seeds.take(seed_bits) << raw_bits - seed_bits
    no_more(seeds)
    need((raw_bits - seed_bits) % 8 == 0 or behind.data[-1] >> (raw_bits - seed_bits) % 8 == 0, "§4.5: raw bytes padded with ones")
    pad(reader)
    raw = Bits(raw.to_bytes((raw_bits + 7) // 8, "little"), "raw bits", raw_bits)
    return [fresh_word(dtype, tile.tables.fresh_origin, number, raw.take(word_raw_bits)) for number in numbers]


def fresh_word(dtype, origin, number, raw):
    if dtype.layout == "float":
        exponent = (origin - number) % (1 << dtype.exponent_bits)
        mantissa, sign = raw % (1 << dtype.mantissa_bits), raw >> dtype.mantissa_bits
        return sign << dtype.bits - 1 | exponent << dtype.mantissa_bits | mantissa
    if dtype.layout == "signed":
        return (number >> 1 if number % 2 == 0 else -(number >> 1) - 1) % (1 << dtype.bits)
    return number


def decode_sparse(reader, lanes, start, tile):
    """§4.6: which elements of the block change, and how much."""
    stream = Stream(reader, lanes)
    found = []
    end = start + tile.block_words(start)
    for at in range(start, end, SEGMENT):
        find_changes(stream, lanes, range(at, min(at + SEGMENT, end)), tile, found)
    seeds = stream.seeds()
    words = [tile.moved(element, 0, 0) for element in range(start, end)]
    for element, magnitude, sign in found:
        need(magnitude >= 1, "§4.6: a changed element with magnitude 0")
        words[element - start] = tile.moved(element, magnitude, seeds.take(1) if sign is None else sign)
    no_more(seeds)
    return words


def find_changes(stream, lanes, segment, tile, found):
    """Of one segment, appends to `found`: (element, magnitude, sign); the sign is None if it is a seed."""
    tables = tile.tables
    # A group's first element, the classes of its bases, where to start in it.
    groups = [segment[at : at + GROUP] for at in range(0, len(segment), GROUP)]
    waiting = [(group[0], tuple(tile.classes[group[0] : group[-1] + 1]), 0) for group in groups]
    while waiting:
        changed = []
        for members in in_rounds(waiting, lanes):
            takers = [(lane, tables.changes.first_change(classes, at), False) for lane, (_, classes, at) in enumerate(members)]
            for (first, classes, _), (change, _) in zip(members, stream.round(takers)):
                if change is not None:
                    changed.append((first, classes, change))
        need(not changed or tables.magnitudes, "§4.3: elements change, and there are no magnitude tables")
        for members in in_rounds(changed, lanes):
            takers = [
                (lane, tables.magnitudes.of_class(classes[change]), len(found) + lane >= SEED_BITS * lanes)
                for lane, (_, classes, change) in enumerate(members)
            ]
            numbers = stream.round(takers, tables.magnitudes.shape)
            found += [(first + change, *number) for (first, _, change), number in zip(members, numbers)]
        waiting = [(first, classes, change + 1) for first, classes, change in changed if change + 1 < len(classes)]


class Tile:
    """What decoding a tile needs: its tables, where its residuals count from, and the classes that choose tables.

    `source` gives the words that residuals count from, and adds to them (§3, §4.9). `given` is the words of relation 2, or None.
    """

    def __init__(self, dtype, tables, block_log2, source, given):
        self.dtype, self.tables, self.block_size, self.source = dtype, tables, 1 << block_log2, source
        count = len(source.words)
        self.classes = self.given_classes = [0] * count
        if tables.origin is not None:
            self.classes = [dtype.word_class(word, tables.origin) for word in source.words]
        if given and tables.fresh:
            self.given_classes = [dtype.word_class(word, tables.given_origin) for word in given]

    def block_words(self, start):
        return min(self.block_size, len(self.source.words) - start)

    def moved(self, element, magnitude, sign):
        need(magnitude <= self.source.largest, f"§4.5 and §4.6: a magnitude of {magnitude}, at most {self.source.largest}")
        return self.source.add(element, -magnitude if sign else magnitude)

    def decode(self, mode, body, lanes):
        """§4.5: the lengths of all blocks but the last, then the blocks."""
        reader = Reader(body, f"§4.5 a {MODE_NAMES[mode]} tile")
        decode_block = {SPARSE: decode_sparse, DENSE: decode_dense, FRESH: decode_fresh}[mode]
        starts = range(0, len(self.source.words), self.block_size)
        sizes = [reader.varint() for _ in starts[1:]]
        need(all(size % 2 == 0 for size in sizes), "§4.5: a block of an odd length")
        pad(reader)
        words = []
        for start, size in zip(starts, [*sizes, None]):
            block = Reader(reader.rest() if size is None else reader.take(size), f"§4.5 a {MODE_NAMES[mode]} block")
            words += decode_block(block, lanes, start, self)
            block.end()
        return self.dtype.data(words)
