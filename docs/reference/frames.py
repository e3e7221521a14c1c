"""Decoding one frame, which is one slice of a tensor: sections 4.1, 4.8 and 4.9 of format.md.

    frame = header | tables (tables.py) | a mode and a size for each tile | bodies of the tiles (tiles.py)

A tile counts from its base: the same tile of another tensor, all zero bits, or what a given tensor makes of these.
"""

from elements import Reader, dtype_of, need
from tables import Tables
from tiles import DENSE, FRESH, MODE_NAMES, RAW, SAME, SPARSE, Tile, pad

TILE_WORDS = 65_536
MAX_WORDS = 1 << 48
MAX_BLOCK_LOG2 = 16
MAX_LANES_LOG2 = 5
ROUNDED, SCALE, CAST = 1, 2, 3
BF16, F32 = dtype_of(9, ""), dtype_of(12, "")


def slice_words(dtype):
    """§1: elements of every slice of a tensor but the last."""
    return 1 << (22 if dtype.word_bytes == 8 else 23)


class Base:
    """§3, Residual: counts from the words of a base."""

    def __init__(self, dtype, words):
        self.dtype, self.words = dtype, words
        self.largest = 1 << dtype.bits - 1

    def add(self, element, distance):
        return self.dtype.add(self.words[element], distance)


class RoundedBase:
    """§4.9, relation 1: counts from virtual bases, and stays in the cell of words that round to the given one.

    All ordinals are signed numbers here. `base` is None in an anchor.
    """

    largest = 1 << 15

    def __init__(self, base, given):
        self.middles = [F32.signed_ordinal(word << 16) for word in given]
        self.virtual = self.middles
        if base is not None:
            ordinals = (F32.signed_ordinal(word) for word in base)
            lowest = (h - (1 << 15) for h in self.middles)
            self.virtual = [low + (ordinal - low) % (1 << 16) for low, ordinal in zip(lowest, ordinals)]
        self.words = [F32.word_of_ordinal(v) for v in self.virtual]

    def add(self, element, distance):
        h, y = self.middles[element], self.virtual[element] + distance
        if y < h - (1 << 15):
            y += (1 << 16) + 1
        elif y > h + (1 << 15):
            y -= (1 << 16) + 1
        return F32.word_of_ordinal(y)


def cast(word):
    """§4.9, relation 3: the upper half of an F32 word, rounded to nearest, ties to even."""
    return (word + 0x7FFF + (word >> 16 & 1) >> 16) % (1 << 16)


class Frame:
    """§4.1: a frame's header, read and checked; `decode` gives the bytes of the slice."""

    def __init__(self, data):
        reader = Reader(data, "§4.1 a frame")
        need((version := reader.u8()) == 1, f"§4.1: a frame of version {version}, this reader knows 1")
        self.dtype = dtype_of(reader.u8(), "a frame")
        flags = reader.u8()
        need(flags < 4, f"§4.1: frame flags {flags}")
        self.is_delta, self.is_given = bool(flags & 1), bool(flags & 2)
        self.tensor_words = reader.varint()
        need(self.tensor_words <= MAX_WORDS, f"§2: a tensor of {self.tensor_words} elements")
        self.tensor_bytes = self.tensor_words * self.dtype.word_bytes
        self.number = reader.varint()
        # §1: an empty tensor has one empty slice.
        self.slices = max(1, -(-self.tensor_words // slice_words(self.dtype)))
        need(self.number < self.slices, f"§4.1: slice {self.number} of {self.slices}")
        self.first_word = self.number * slice_words(self.dtype)
        self.words = min(slice_words(self.dtype), self.tensor_words - self.first_word)
        self.base_start = reader.take(4) if self.is_delta else None
        self.relation = self.given_start = self.given_dtype = None
        if self.is_given:
            self._read_given(reader)
        self.blocks = {SPARSE: self._read_blocks(reader)}
        self.blocks[DENSE] = self.blocks[FRESH] = self._read_blocks(reader)
        group_log2 = reader.u8()
        need(group_log2 <= 16, f"§4.1: group_log2 {group_log2}")
        self.tiles = [range(at, min(at + TILE_WORDS, self.words)) for at in range(0, self.words, TILE_WORDS)]
        groups = max(1, -(-len(self.tiles) // (1 << group_log2)))
        self.digests = [reader.take(32) for _ in range(groups)] if self.slices > 1 or groups > 1 else []
        residual_bits = 16 if self.relation == ROUNDED else self.dtype.bits
        self.tables = Tables(reader, self.dtype, residual_bits, fresh_by_given=self.relation == SCALE)
        directory = [reader.varint() for _ in self.tiles]
        self.modes = [entry & 7 for entry in directory]
        for mode, entry, tile in zip(self.modes, directory, self.tiles):
            self._check_tile(mode, entry >> 3, len(tile))
        pad(reader)
        self.bodies = [reader.take(entry >> 3) for entry in directory]
        reader.end()

    def _read_given(self, reader):
        self.relation = relation = reader.u8()
        need(relation in (ROUNDED, SCALE, CAST), f"§4.9: relation {relation} is not known")
        need(relation != ROUNDED or self.dtype is F32, f"§4.9: {self.dtype.name} given its rounding")
        need(relation != SCALE or self.dtype.layout == "float", f"§4.9: {self.dtype.name} given a scale")
        need(relation != CAST or self.dtype is BF16, f"§4.9: {self.dtype.name} given what it was cast from")
        need(relation != CAST or not self.is_delta, "§4.9: a cast is an anchor")
        self.given_dtype = {ROUNDED: BF16, SCALE: self.dtype, CAST: F32}[relation]
        self.given_start = reader.take(4)

    @staticmethod
    def _read_blocks(reader):
        byte = reader.u8()
        block_log2, lanes_log2 = 12 + byte % 8, byte >> 3
        need(block_log2 <= MAX_BLOCK_LOG2, f"§4.1: block_log2 {block_log2}")
        need(lanes_log2 <= MAX_LANES_LOG2, f"§4.1: lanes_log2 {lanes_log2}")
        return block_log2, 1 << lanes_log2

    def _check_tile(self, mode, size, words):
        need(mode <= RAW, f"§4.1: tile mode {mode}")
        tables = self.tables
        there = {SPARSE: tables.changes, DENSE: tables.dense, FRESH: tables.fresh}
        need(mode not in there or there[mode], f"§4.3: a {MODE_NAMES[mode]} tile without its tables")
        need(size % 2 == 0, f"§4.1: a body of {size} bytes")
        if mode in (SAME, RAW):
            told = 0 if mode == SAME else words * self.dtype.word_bytes
            need(size == told + told % 2, f"§4.7: a body of {size} bytes for a {MODE_NAMES[mode]} tile of {told}")

    def slice_of(self, tensor, dtype):
        """The same elements of another tensor, of which all bytes are there."""
        need(len(tensor) == self.tensor_words * dtype.word_bytes, f"§1, §4.9: {len(tensor)} bytes of {dtype.name} to decode with")
        return tensor[self.first_word * dtype.word_bytes :][: self.words * dtype.word_bytes]

    def decode(self, base, given):
        """The slice. `base` and `given` are the same slice of the base tensor and the given one; None if there is none."""
        need((base is not None) == self.is_delta, "§4.1: a delta needs a base, an anchor has none")
        need((given is not None) == self.is_given, "§4.1: a given tensor is needed if and only if the flag is set")
        need(base is None or len(base) == self.words * self.dtype.word_bytes, "§1: a base slice of another length")
        need(given is None or len(given) == self.words * self.given_dtype.word_bytes, "§4.9: a given slice of another length")
        return b"".join(self._decode_tile(number, base, given) for number in range(len(self.tiles)))

    def _decode_tile(self, number, base, given):
        mode, body, tile = self.modes[number], self.bodies[number], self.tiles[number]
        size = len(tile) * self.dtype.word_bytes
        if mode == RAW:
            need(not any(body[size:]), "§4.1: a pad that is not zero")
            return body[:size]
        base_tile = bytes(size) if base is None else part(base, tile, self.dtype)
        given_words = given and self.given_dtype.words(part(given, tile, self.given_dtype))
        if self.relation == CAST:
            base_tile = self.dtype.data(cast(word) for word in given_words)
        if mode == SAME:
            return base_tile
        source = Base(self.dtype, self.dtype.words(base_tile))
        if self.relation == ROUNDED:
            source = RoundedBase(base and source.words, given_words)
        block_log2, lanes = self.blocks[mode]
        scale_words = given_words if self.relation == SCALE else None
        return Tile(self.dtype, self.tables, block_log2, source, scale_words).decode(mode, body, lanes)


def part(data, tile, dtype):
    return data[tile.start * dtype.word_bytes : tile.stop * dtype.word_bytes]
