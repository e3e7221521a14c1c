"""Numbers, text and words: sections 2 and 3 of format.md.

Everything that TPDE stores is read through a `Reader`: it never looks past its end, never trusts a count that the bytes
left could not hold, and `end` refuses bytes that nothing asked for.
"""


class FormatError(Exception):
    """What was read breaks a rule of format.md; the message names the section."""


def need(condition, rule):
    """Raises `FormatError(rule)` unless `condition` holds."""
    if not condition:
        raise FormatError(rule)


class Reader:
    """A cursor over bytes (section 2)."""

    def __init__(self, data, what):
        self.data, self.at, self.what = bytes(data), 0, what
        self.counted = 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        need(count <= self.left(), f"§2 {self.what}: {count} bytes expected at byte {self.at}, {self.left()} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self):
        return self.take(self.left())

    def fixed(self, count):
        return int.from_bytes(self.take(count), "little")

    def u8(self):
        return self.take(1)[0]

    def varint(self):
        """LEB128, in its shortest form, in 64 bits."""
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            need(shift < 70, f"§2 {self.what}: a varint of more than ten bytes")
        need(byte != 0 or shift == 7, f"§2 {self.what}: a varint that is not in its shortest form")
        need(value < 1 << 64, f"§2 {self.what}: a varint of more than 64 bits")
        return value

    def zigzag(self):
        """A signed number as a varint: 0, -1, 1, -2 … are 0, 1, 2, 3 …"""
        value = self.varint()
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1

    def count(self, least_bytes):
        """A count of things that take at least `least_bytes` each: refused before anything is allocated for them."""
        value = self.varint()
        need(value * least_bytes <= self.left(), f"§2 {self.what}: a count of {value}, {self.left()} bytes are left")
        self.counted += value
        return value

    def index(self, count):
        value = self.varint()
        need(value < count, f"{self.what}: index {value} into a list of {count}")
        return value

    def text(self):
        raw = self.take(self.varint())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"§2 {self.what}: text that is not UTF-8") from error

    def choice(self, *known):
        value = self.u8()
        need(value in known, f"{self.what}: {value} at byte {self.at - 1}, expected one of {known}")
        return value

    def end(self):
        need(self.left() == 0, f"§2 {self.what}: {self.left()} bytes behind the end")


class Bits:
    """A bit stream, least significant bit of the first byte first."""

    def __init__(self, data, what, bits=None):
        self.data, self.at, self.what = data, 0, what
        self.bits = 8 * len(data) if bits is None else bits

    def left(self):
        return self.bits - self.at

    def take(self, count):
        need(count <= self.left(), f"§2 {self.what}: {count} bits expected, {self.left()} are left")
        first, end = self.at >> 3, (self.at + count + 7) >> 3
        value = int.from_bytes(self.data[first:end], "little") >> (self.at & 7)
        self.at += count
        return value & ((1 << count) - 1)


class Dtype:
    """A row of the table of section 3: how a word of `bits` bits is ordered and how large it is.

    `element_bits` is how many bits one element of a tensor's shape takes; it differs from `bits` for complex numbers and for
    types of less than a byte.
    """

    def __init__(self, code, name, word_bytes, layout, mantissa_bits=0, element_bits=None):
        self.code, self.name, self.word_bytes, self.layout = code, name, word_bytes, layout
        self.bits = 8 * word_bytes
        self.mantissa_bits = mantissa_bits
        self.exponent_bits = self.bits - 1 - mantissa_bits if layout == "float" else 0
        self.element_bits = element_bits or self.bits

    def ordinal(self, word):
        """Section 3, Ordinal: numbers in their order, but for integers the word itself. Its own inverse."""
        top = 1 << (self.bits - 1)
        return word ^ (top - 1) if self.layout == "float" and word & top else word

    def signed_ordinal(self, word):
        """The ordinal, read as a two's-complement number."""
        top = 1 << (self.bits - 1)
        return (self.ordinal(word) ^ top) - top

    def word_of_ordinal(self, ordinal):
        """The word of an ordinal, modulo 2^bits."""
        return self.ordinal(ordinal % (1 << self.bits))

    def add(self, base, distance):
        """Section 3, Residual: the word that lies `distance` steps above `base`."""
        return self.word_of_ordinal(self.ordinal(base) + distance)

    def exponent(self, word):
        """Section 3, Exponent."""
        if self.layout == "float":
            return (word >> self.mantissa_bits) % (1 << self.exponent_bits)
        if self.layout == "signed" and word >> (self.bits - 1):
            word ^= (1 << self.bits) - 1
        return word.bit_length()

    def word_class(self, base, origin):
        """Section 3, Class: bases of one size share a table."""
        return min(15, max(0, origin - self.exponent(base)))

    def words(self, data):
        size = self.word_bytes
        return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]

    def data(self, words):
        return b"".join(word.to_bytes(self.word_bytes, "little") for word in words)


DTYPES = [
    Dtype(0, "BOOL", 1, "unsigned"),
    Dtype(1, "U8", 1, "unsigned"),
    Dtype(2, "I8", 1, "signed"),
    Dtype(3, "F8_E5M2", 1, "float", 2),
    Dtype(4, "F8_E4M3", 1, "float", 3),
    Dtype(5, "F8_E8M0", 1, "unsigned"),
    Dtype(6, "I16", 2, "signed"),
    Dtype(7, "U16", 2, "unsigned"),
    Dtype(8, "F16", 2, "float", 10),
    Dtype(9, "BF16", 2, "float", 7),
    Dtype(10, "I32", 4, "signed"),
    Dtype(11, "U32", 4, "unsigned"),
    Dtype(12, "F32", 4, "float", 23),
    Dtype(13, "I64", 8, "signed"),
    Dtype(14, "U64", 8, "unsigned"),
    Dtype(15, "F64", 8, "float", 52),
    Dtype(16, "C64", 4, "float", 23, element_bits=64),
    Dtype(17, "F4", 1, "unsigned", element_bits=4),
    Dtype(18, "F6_E2M3", 1, "unsigned", element_bits=6),
    Dtype(19, "F6_E3M2", 1, "unsigned", element_bits=6),
    Dtype(20, "F8_E4M3FNUZ", 1, "float", 3),
    Dtype(21, "F8_E5M2FNUZ", 1, "float", 2),
]


def dtype_of(code, what):
    need(code < len(DTYPES), f"§3 {what}: dtype code {code} is not known")
    return DTYPES[code]
