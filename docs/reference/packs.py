"""Finding and decoding pieces: section 5 of format.md.

    pack = pieces of frames and blobs | footer | footer's hash, length, magic, version

All packs are found by listing the folder, and what they hold by reading their footers. The places that manifests and footers
name (§5 "hints") are only good for speed, so they are not used.
"""

from pathlib import Path

import zstandard
from blake3 import blake3

from digests import merge
from elements import Reader, dtype_of, need
from frames import CAST, ROUNDED, SCALE, Frame

PACK_BYTES = 64 << 20
BLOB_BYTES = 8 << 20
WINDOW_BYTES = 1 << 25
TRAILER_BYTES = 32 + 4 + 7 + 1
PLAIN, ZSTD = 62, 63
WITH_BASE, WITH_GIVEN = 128, 64
START_BYTES = 16
ANY_RANK = 256


def unzstd(data, limit, what, prefix=None):
    """Exactly one zstd frame, of at most `limit` bytes; `prefix` is taken raw, whatever it starts with."""
    dictionary = prefix and zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    try:
        told = zstandard.frame_content_size(data)
        need(told <= limit, f"{what}: {told} bytes behind zstd, at most {limit} are allowed")
        decompressor = zstandard.ZstdDecompressor(dict_data=dictionary or None, max_window_size=WINDOW_BYTES)
        return decompressor.decompress(data, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        need(False, f"{what}: {error}")


def by_hash(folder, suffix=""):
    """The objects of `folder/ab/<hash><suffix>`, as (hash, bytes); each MUST hash to its name."""
    for path in sorted(Path(folder).glob(f"??/{'?' * 64}{suffix}")):
        name, data = path.name[:64], path.read_bytes()
        need(path.parent.name == name[:2], f"{path.name} lies in folder {path.parent.name}")
        need(blake3(data).hexdigest() == name, f"{path.name}: its bytes hash to {blake3(data).hexdigest()}")
        yield bytes.fromhex(name), data


class Entry:
    """An entry of a footer: the pieces of a tensor or a blob, and what they need to be decoded."""

    def __init__(self, reader, packs):
        kind = reader.u8()
        self.kind = kind % WITH_GIVEN
        is_blob = self.kind in (PLAIN, ZSTD)
        self.dtype = None if is_blob else dtype_of(self.kind, "§5: an entry")
        self.base = self.given = self.relation = None
        has_base, has_given = kind & WITH_BASE, kind & WITH_GIVEN
        need(self.kind != PLAIN or not has_base, "§5: a plain blob with a base")
        need(not is_blob or not has_given, "§5: a blob with a given tensor")
        self.id = reader.take(32)
        self.first_slice = self.bytes = reader.varint()
        need(not is_blob or self.bytes <= BLOB_BYTES, f"§1: a blob of {self.bytes} bytes")
        if has_base:
            self.base = self._read_other(reader, packs)
        if has_given:
            self.relation = reader.choice(ROUNDED, SCALE, CAST)
            self.given = self._read_other(reader, packs)
        self.rank = reader.u8() if has_base or has_given else 0
        need(self.rank > 0 or not (has_base or has_given), "§5: an entry with a base or a given tensor has rank 0")
        self.sizes = [reader.varint() for _ in range(reader.count(1))]
        need(self.sizes, "§5: an entry without pieces")
        need(not is_blob or len(self.sizes) == 1, f"§5: a blob of {len(self.sizes)} pieces")
        need(self.kind != PLAIN or self.sizes[0] == self.bytes, "§5: a plain blob of another length than its piece")
        self.pieces = []

    @staticmethod
    def _read_other(reader, packs):
        """The start of the id of a base or of a given tensor; where it was is a hint: nowhere, here, or in one of `packs`."""
        start = reader.take(START_BYTES)
        reader.index(packs + 2)
        return start


def read_pack(data):
    """The entries of a pack, their pieces filled in."""
    need(TRAILER_BYTES <= len(data) <= PACK_BYTES, f"§5: a pack of {len(data)} bytes")
    trailer = Reader(data[-TRAILER_BYTES:], "§5 the end of a pack")
    footer_hash, footer_bytes, magic, version = trailer.take(32), trailer.fixed(4), trailer.take(7), trailer.u8()
    need(magic == b"TPDEPK\0", f"§5: a pack ends in {magic}")
    need(version == 1, f"§5: a pack of version {version}, this reader knows 1")
    footer_at = len(data) - TRAILER_BYTES - footer_bytes
    need(footer_at >= 0, f"§5: a footer of {footer_bytes} bytes in a pack of {len(data)}")
    footer = data[footer_at:-TRAILER_BYTES]
    need(blake3(footer).digest() == footer_hash, "§5: the footer is damaged")
    reader = Reader(footer, "§5 a footer")
    packs = reader.count(32)
    reader.take(32 * packs)
    entries = [Entry(reader, packs) for _ in range(reader.count(35))]
    reader.end()
    pieces = Reader(data[:footer_at], "§5 the pieces of a pack")
    for entry in entries:
        entry.pieces = [pieces.take(size) for size in entry.sizes]
    pieces.end()
    return entries


class Contents:
    """All that a store's packs hold, by id. What it hands out has been proved by that id."""

    def __init__(self, folder):
        self.packs, self.pieces, self.known = set(), {}, {}
        for pack, data in by_hash(folder, ".pack"):
            self.packs.add(pack)
            for entry in read_pack(data):
                parts = enumerate(entry.pieces, entry.first_slice) if entry.dtype else [(0, entry.pieces[0])]
                for number, piece in parts:
                    place = (entry.id[:START_BYTES], entry.dtype and entry.dtype.code, number)
                    self.pieces.setdefault(place, []).append((entry, piece))

    def _least_rank(self, start, dtype, number, what, below):
        """An id may be stored more than once. The copy of least rank is taken, and its rank MUST be below that of its user."""
        found = self.pieces.get((start[:START_BYTES], dtype and dtype.code, number), ())
        found = [copy for copy in found if copy[0].id.startswith(start)]
        need(found, f"§5: no pack holds {what}")
        entry, piece = min(found, key=lambda copy: copy[0].rank)
        need(entry.rank < below, f"§5: {what} has rank {entry.rank}, its user has {below}")
        return entry, piece

    def _proved(self, content_id, data, what):
        need(blake3(data).digest() == content_id, f"{what} decodes to bytes of id {blake3(data).hexdigest()}")
        self.known[content_id] = data
        return data

    def blob(self, start, below=ANY_RANK):
        """The blob whose id is, or begins with, `start`."""
        what = f"blob {start.hex()}"
        entry, piece = self._least_rank(start, None, 0, what, below)
        if entry.id not in self.known:
            data = piece
            if entry.kind == ZSTD:
                prefix = self.blob(entry.base, entry.rank) if entry.base else None
                data = unzstd(piece, entry.bytes, f"§5 {what}", prefix)
            need(len(data) == entry.bytes, f"§5: {what} has {len(data)} bytes, its entry says {entry.bytes}")
            self._proved(entry.id, data, what)
        return self.known[entry.id]

    def _other(self, other, start, dtype, frame, rank, what):
        """The slice of a base or a given tensor that a frame is decoded with; None if there is none."""
        need((other is None) == (start is None), f"§5: a frame of {what} and its entry differ on what it is coded with")
        if other is None:
            return None
        need(other[:4] == start, f"§4.1: {what} was encoded with another tensor than {other.hex()}")
        return frame.slice_of(self.tensor(other, dtype, rank), dtype)

    def tensor(self, start, dtype, below=ANY_RANK):
        """The tensor of this type whose id is, or begins with, `start`."""
        what = f"tensor {start.hex()}"
        slices, digests, count = [], [], 1
        while len(slices) < count:
            number = len(slices)
            entry, piece = self._least_rank(start, dtype, number, f"slice {number} of {what}", below)
            tensor_id = start = entry.id
            if tensor_id in self.known:
                return self.known[tensor_id]
            frame = Frame(piece)
            need(frame.dtype is dtype, f"§5: a frame of {frame.dtype.name} where the footer says {dtype.name}")
            need(frame.relation == entry.relation, f"§5: a frame of {what} and its entry differ on their relation")
            need(frame.number == number, f"§4.1: slice {frame.number} where {number} of {what} should be")
            need(number == 0 or frame.tensor_bytes == length, f"§4.1: the slices of {what} differ on its length")
            base = self._other(entry.base, frame.base_start, frame.dtype, frame, entry.rank, what)
            given = self._other(entry.given, frame.given_start, frame.given_dtype, frame, entry.rank, what)
            count, length = frame.slices, frame.tensor_bytes
            slices.append(frame.decode(base, given))
            digests.append(frame.digests)
        # §4.8: the digests are right if they merge to the id, and the bytes if they hash to it.
        if count > 1:
            need(merge([merge(groups) for groups in digests], root=True) == tensor_id, f"§4.8: digests of {what} are wrong")
        elif digests[0]:
            need(merge(digests[0], root=True) == tensor_id, f"§4.8: digests of {what} are wrong")
        return self._proved(tensor_id, b"".join(slices), what)
