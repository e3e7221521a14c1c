"""Merging of BLAKE3 chaining values: section 4.8 of format.md.

BLAKE3 hashes 1024-byte leaves into chaining values and joins these two by two, up to the root:

            root            the tensor id
           /    \\
        slice   slice       2^23 words each (2^22 of 8 bytes), but the last
        /   \\      \\
     group group  group     2^group_log2 tiles each, but the last of a slice

The `blake3` package gives no chaining values of subtrees, so a group's digest is not computed from its bytes here. But the
digests of all groups, merged, must give the tensor id, which *is* computed from the bytes; they cannot do that and be wrong.
Only the joining of two values is needed for that: one run of BLAKE3's compression function.
"""

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
PARENT, ROOT = 4, 8


def _turn(word, count):
    return (word >> count | word << (32 - count)) & 0xFFFFFFFF


def join(left, right, root=False):
    """The chaining value of the node above `left` and `right`; finalised if it is the root."""
    block = left + right
    message = [int.from_bytes(block[at : at + 4], "little") for at in range(0, 64, 4)]
    state = [*IV, *IV[:4], 0, 0, 64, PARENT + ROOT * root]
    for _ in range(7):
        words = iter(message)
        for a, b, c, d in COLUMNS + DIAGONALS:
            state[a] = (state[a] + state[b] + next(words)) & 0xFFFFFFFF
            state[d] = _turn(state[d] ^ state[a], 16)
            state[c] = (state[c] + state[d]) & 0xFFFFFFFF
            state[b] = _turn(state[b] ^ state[c], 12)
            state[a] = (state[a] + state[b] + next(words)) & 0xFFFFFFFF
            state[d] = _turn(state[d] ^ state[a], 8)
            state[c] = (state[c] + state[d]) & 0xFFFFFFFF
            state[b] = _turn(state[b] ^ state[c], 7)
        message = [message[index] for index in PERMUTATION]
    return b"".join((low ^ high).to_bytes(4, "little") for low, high in zip(state[:8], state[8:]))


def merge(values, root=False):
    """Merges chaining values of neighbouring subtrees, left subtrees full: the left half is the largest power of two."""
    if len(values) == 1:
        return values[0]
    half = 1 << ((len(values) - 1).bit_length() - 1)
    return join(merge(values[:half]), merge(values[half:]), root)
