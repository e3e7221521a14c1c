"""Who saved what, and when: sections 6, 7 and 8 of format.md.

    tpde.json
    runs/<run>/<newest slot> ── manifest, and summaries of the records since the last sixteenth ──┐
    runs/<run>/<a sixteenth> ── summaries of the records since the last rollup <──────────────────┘
    rollups/<run>/…          ── 256 summaries each, linked backwards
    manifests/ab/…           ── a checkpoint's tensors, blobs and files
"""

import json
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from blake3 import blake3

from elements import Reader, dtype_of, need
from packs import BLOB_BYTES, unzstd

MANIFEST_BYTES = 256 << 20
DETAILS_BYTES = 4096
METRICS, RANGES = 32, 192
MANIFEST_COUNTS = 1 << 22
MAX_DIMENSIONS = 64
ROLES = 5
ROLLUP_RECORDS = 256
STRIDE = 16
HISTORY_BYTES = ROLLUP_RECORDS * (103 + DETAILS_BYTES)
COMMIT, FORGET, UNDO = range(3)
DIRECTORY, OPAQUE, SAFETENSORS, TORCH = range(4)


# ---------------------------------------------------------------- §6, manifests


@dataclass
class TensorRow:
    id: bytes
    dtype: object
    bytes: int


@dataclass
class BlobRow:
    id: bytes
    bytes: int


class File:
    """A file of a checkpoint: of its four kinds, each uses some of the fields."""

    def __init__(self, reader, tensors, blobs):
        self.path = checked_path(reader.text())
        self.mode = reader.varint()
        self.kind = reader.choice(DIRECTORY, OPAQUE, SAFETENSORS, TORCH)
        self.digest = reader.take(32) if self.kind == OPAQUE else None
        self.blobs = self.tensors = self.gaps = ()
        if self.kind != DIRECTORY:
            self.blobs = [blobs[reader.index(len(blobs))] for _ in range(reader.count(1))]
        if self.kind in (SAFETENSORS, TORCH):
            self.tensors = self._tensors(reader, tensors)
        if self.kind == TORCH:
            self.gaps = [reader.varint() for _ in self.tensors]
            between, container = sum(self.gaps), sum(row.bytes for row in self.blobs)
            need(between <= container, f"§6: {between} bytes between tensors in a container of {container}")

    @staticmethod
    def _tensors(reader, tensors):
        count = reader.count(4)
        names = [reader.text() for _ in range(count)]
        for _ in range(count):
            reader.choice(*range(ROLES))
        rows, expected = [], 0
        shapes = []
        for name in names:
            dimensions = reader.count(1)
            need(dimensions <= MAX_DIMENSIONS, f"§2: tensor {name} has {dimensions} dimensions")
            shapes.append([reader.varint() for _ in range(dimensions)])
        for name, shape in zip(names, shapes):
            difference = reader.varint()
            index = expected + (difference >> 1 ^ -(difference & 1))
            need(0 <= index < len(tensors), f"§6: tensor {name} is number {index} of {len(tensors)}")
            row, expected = tensors[index], index + 1
            told = -(-prod(shape) * row.dtype.element_bits // 8)
            need(told == row.bytes, f"§6: tensor {name} of shape {shape} takes {told} bytes, its row says {row.bytes}")
            rows.append(row)
        return rows


def check_places(files):
    paths = [file.path for file in files]
    need(paths == sorted(set(paths), key=str.encode), f"§6: paths out of order: {paths}")
    below = {file.path + "/" for file in files if file.kind != DIRECTORY}
    for path in paths:
        parts = path.split("/")
        need(not any("/".join(parts[:n]) + "/" in below for n in range(1, len(parts))), f"§6: {path!r} lies below a file")


def checked_path(path):
    good = 0 < len(path.encode()) <= 4096 and "\0" not in path and "\\" not in path
    # An absolute path has an empty first part.
    good = good and not any(part in ("", ".", "..") for part in path.split("/"))
    need(good, f"§6: the path {path!r}")
    return path


class Manifest:
    def __init__(self, data):
        need(data[:6] == b"TPDEMF", f"§6: a manifest starts with {data[:6]}")
        need(data[6:7] == b"\1", f"§6: a manifest of version {data[6:7].hex()}, this reader knows 1")
        reader = Reader(unzstd(data[7:], MANIFEST_BYTES, "§6 a manifest"), "§6 a manifest")
        self.run, self.step, self.unix_ms = reader.text(), reader.varint(), reader.varint()
        self.parent = reader.take(32) if reader.choice(0, 1) else None
        self.writer = reader.text()
        self.has_archived_weights = bool(reader.choice(0, 1))
        self.metrics, self.note = read_metrics(reader), reader.text()
        self.environment = [(reader.text(), reader.text()) for _ in range(reader.count(2))]
        ascending([name for name, _ in self.environment], reader)
        packs = reader.count(32)
        self.packs = [reader.take(32) for _ in range(packs)]

        rows = reader.count(40)
        ids = [reader.take(32) for _ in range(rows)]
        dtypes = [dtype_of(reader.u8(), "a manifest") for _ in range(rows)]
        sizes = [reader.varint() for _ in range(rows)]
        for _ in range(rows):
            for _ in range(reader.count(1)):
                reader.index(packs)  # packs that hold the tensor, or a part of it: a hint
        reader.take(rows)  # ranks
        for _ in range(rows):
            reader.choice(0, 1, 2, 3)  # whether a base, a given tensor are read
        for _ in range(3 * rows):
            reader.varint()  # stored bytes, changed elements, largest distances
        self.tensors = [TensorRow(*row) for row in zip(ids, dtypes, sizes)]
        for row in self.tensors:
            need(row.bytes % row.dtype.word_bytes == 0, f"§6: {row.bytes} bytes of {row.dtype.name}")

        self.blobs = []
        for _ in range(reader.count(35)):
            self.blobs.append(BlobRow(reader.take(32), reader.varint()))
            reader.index(packs)
            reader.varint()  # stored bytes
        for row in self.blobs:
            need(row.bytes <= BLOB_BYTES, f"§1: a blob of {row.bytes} bytes")
        self.files = [File(reader, self.tensors, self.blobs) for _ in range(reader.count(3))]
        check_places(self.files)
        for _ in range(reader.count(2)):
            number = reader.varint()
            need(number % 2 == 1, f"§6: the addition {number} is not known here, and must be")
            reader.take(reader.varint())
        need(reader.counted <= MANIFEST_COUNTS, f"§2: a manifest that lists {reader.counted} things")
        reader.end()

    def fingerprint(self):
        """§6: what two saves of the same files share, whoever saved them and however they are stored."""
        total = blake3()
        for file in self.files:
            path = file.path.encode()
            total.update(varint(len(path)) + path + varint(file.mode) + bytes([file.kind]))
            if file.kind == OPAQUE:
                total.update(file.digest)
            if file.kind == SAFETENSORS:
                total.update(blake3(b"".join(row.id for row in [*file.blobs, *file.tensors])).digest())
            if file.kind == TORCH:
                parts = [varint(len(file.blobs)), *(row.id for row in file.blobs)]
                for gap, row in zip(file.gaps, file.tensors):
                    parts += [varint(gap), row.id]
                total.update(blake3(b"".join(parts)).digest())
        return total.digest()


def ascending(names, reader):
    need(names == sorted(set(names), key=str.encode), f"§6: {reader.what}: names out of order: {names}")


def read_metrics(reader):
    """§6: the bits of numbers by name; the names ascend."""
    count = reader.varint()
    need(count <= METRICS, f"§2: {count} metrics")
    metrics = []
    for _ in range(count):
        name, bits = reader.text(), reader.fixed(8)
        need(1 <= len(name.encode()) <= 64, f"§2: the metric {name!r}")
        metrics.append((name, bits))
    ascending([name for name, _ in metrics], reader)
    return metrics


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


# ---------------------------------------------------------------- §7, slots, rollups and tags


def unsealed(data, what):
    """A reader of what the seal covers. The seal comes first: so damage is not taken for a newer version."""
    need(len(data) > 32 and blake3(data[:-32]).digest() == data[-32:], f"§7: the seal of {what} is broken")
    reader = Reader(data[:-32], f"§7 {what}")
    version = reader.u8()
    need(version == 1, f"§7: {what} is of version {version}, this reader knows 1")
    return reader


@dataclass
class Summary:
    seq: int
    manifest: bytes
    fingerprint_start: bytes
    # step, milliseconds, raw bytes, stored bytes, tensors, new tensors
    numbers: tuple
    kind: int
    # metrics, or the ranges of commits that are forgotten or put back
    details: list


def read_details(reader, kind):
    """§7: what a record says beyond its numbers, behind a length."""
    data = reader.take(reader.varint())
    need(len(data) <= DETAILS_BYTES, f"§2: {reader.what}: details of {len(data)} bytes")
    if kind >= 128 or (kind == COMMIT and not data):
        return []
    need(kind in (COMMIT, FORGET, UNDO), f"§7: {reader.what}: the kind {kind} is not known here, and must be")
    details = Reader(data, reader.what)
    if kind == COMMIT:
        found = read_metrics(details)
    else:
        found, at, count = [], 0, details.varint()
        need(count <= RANGES, f"§2: {reader.what}: {count} ranges")
        for _ in range(count):
            first = at + details.varint()
            last = first + details.varint()
            need(last < 1 << 64, f"§7: {reader.what}: the range {first} to {last}")
            found.append((first, last))
            at = last + 2
    details.end()
    return found


def read_summaries(reader):
    count = reader.count(48)
    if count == 0:
        return []
    first = reader.varint()
    numbers, summaries = (0,) * 6, []
    for seq in range(first, first + count):
        kind = reader.u8()
        manifest, fingerprint_start = reader.take(32), reader.take(8)
        numbers = tuple((before + reader.zigzag()) % (1 << 64) for before in numbers)
        details = read_details(reader, kind)
        summaries.append(Summary(seq, manifest, fingerprint_start, numbers, kind, details))
    return summaries


class Slot:
    def __init__(self, data, what):
        reader = unsealed(data, what)
        self.kind = reader.u8()
        self.run, self.seq = checked_name(reader.text()), reader.varint()
        self.manifest, self.before = reader.take(32), reader.take(32)
        reader.take(16)  # nonce
        self.fingerprint = reader.take(32)
        self.numbers = tuple(reader.varint() for _ in range(6))
        self.largest_step = reader.varint()
        self.details = read_details(reader, self.kind)
        codec = reader.choice(0, 1)
        plain_bytes, stored_bytes = reader.varint(), reader.varint()
        need(plain_bytes <= HISTORY_BYTES, f"§2: a history of {plain_bytes} bytes")
        history = reader.take(stored_bytes)
        reader.end()
        if codec == 1:
            history = unzstd(history, plain_bytes, f"§7 {what}")
        need(len(history) == plain_bytes, f"§7: {what}: a history of {len(history)} bytes, expected {plain_bytes}")
        history_reader = Reader(history, f"§7 the history in {what}")
        self.history = read_summaries(history_reader)
        history_reader.end()
        told = list(range(history_from(self.seq), self.seq))
        need([s.seq for s in self.history] == told, f"§7: {what} does not tell of the records {told}")
        need(self.seq > 0 or self.before == bytes(32), f"§7: {what} is the first and tells of a slot before it")
        need(self.numbers[0] <= self.largest_step, f"§7: {what}: the largest step is below its own")

    def summary(self):
        return Summary(self.seq, self.manifest, self.fingerprint[:8], self.numbers, self.kind, self.details)


def history_from(seq):
    """§7: the first record in the history of slot `seq`."""
    return seq - seq % (STRIDE if seq % STRIDE else ROLLUP_RECORDS)


def checked_name(name):
    good = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", name) and ".." not in name
    need(good, f"§7: the name {name!r}")
    return name


def newest_first(folder):
    """§7: the objects of a run or tag, as (seq, path); names count down, so the newest sorts first."""
    paths = sorted(path for path in folder.glob("*") if re.fullmatch(r"\d{20}", path.name))
    return [((1 << 64) - 1 - int(path.name), path) for path in paths]


class Store:
    """A store's folder: its runs, and the commits of each, oldest first."""

    def __init__(self, folder):
        self.folder = Path(folder)
        # §8
        config = json.loads((self.folder / "tpde.json").read_text("utf-8"))
        need(config.get("format") == 1, f"§8: a store of format {config.get('format')}, this reader knows 1")
        need(re.fullmatch(r"[0-9a-f]{32}", config.get("store_id", "")), "§8: the store_id is not 32 hexadecimal digits")
        need(isinstance(config.get("created_unix_ms"), int), "§8: created_unix_ms is not a number")
        features = config.get("features")
        need(isinstance(features, list) and all(isinstance(f, str) for f in features), "§8: features is not a list of texts")

    def runs(self):
        return sorted(checked_name(path.name) for path in (self.folder / "runs").glob("*") if path.is_dir())

    def commits(self, run):
        """The summaries of the commits that stand: of the records that name a commit, the newest decides."""
        records = self.records(run)
        verdicts = {}
        for record in reversed(records):
            if record.kind in (FORGET, UNDO):
                for first, last in record.details:
                    for seq in range(first, min(last, record.seq - 1) + 1):
                        verdicts.setdefault(seq, record.kind)
        return [r for r in records if r.kind == COMMIT and verdicts.get(r.seq) != FORGET]

    def records(self, run):
        """The summaries of all records of a run, from its newest slots and the rollups. Slots that are there are checked."""
        slots = newest_first(self.folder / "runs" / checked_name(run))
        need(slots, f"run {run} has no record")
        newest = self._slot(run, *slots[0])
        records = [*newest.history, newest.summary()]
        sixteenth = records[0].seq
        if sixteenth % ROLLUP_RECORDS:
            records = self._slot(run, sixteenth, dict(slots)[sixteenth]).history + records
        rollup = records[0].seq - 1 if records[0].seq else None
        while rollup is not None:
            older, rollup = self._rollup(run, rollup)
            records = older + records
        need([r.seq for r in records] == list(range(newest.seq + 1)), f"§7: the history of {run} has gaps")
        need(newest.largest_step == max(r.numbers[0] for r in records), f"§7: the largest step of {run} is wrong")
        after = None
        for seq, path in slots:
            slot = self._slot(run, seq, path)
            need(slot.summary() == records[seq], f"§7: slot {seq} of {run} is not what later slots say")
            if after and after.seq == seq + 1:
                need(after.before == blake3(path.read_bytes()).digest(), f"§7: slot {seq} of {run} is not the one {seq + 1} saw")
            after = slot
        return records

    def _slot(self, run, seq, path):
        slot = Slot(path.read_bytes(), f"slot {seq} of {run}")
        need((slot.run, slot.seq) == (run, seq), f"§7: slot {seq} of {run} says that it is {slot.seq} of {slot.run}")
        return slot

    def _rollup(self, run, last):
        path = self.folder / "rollups" / run / f"{(1 << 64) - 1 - last:020}"
        reader = unsealed(path.read_bytes(), f"rollup {last} of {run}")
        need(reader.text() == run, f"§7: rollup {last} of {run} is of another run")
        before = reader.varint() if reader.choice(0, 1) else None
        summaries = read_summaries(reader)
        reader.end()
        need(len(summaries) == ROLLUP_RECORDS, f"§7: a rollup of {len(summaries)} records")
        need(summaries[-1].seq == last, f"§7: rollup {last} of {run} ends with record {summaries[-1].seq}")
        need(before is None or before < last, f"§7: rollup {last} of {run} is linked to {before}")
        return summaries, before

    def manifest(self, manifest_id):
        name = manifest_id.hex()
        data = (self.folder / "manifests" / name[:2] / name).read_bytes()
        need(blake3(data).digest() == manifest_id, f"§6: manifest {name} is damaged")
        return Manifest(data)

    def checkpoint(self, run, step):
        """The manifest of the newest commit of a step."""
        found = [commit for commit in self.commits(run) if commit.numbers[0] == step]
        need(found, f"run {run} has no step {step}")
        manifest = self.manifest(found[-1].manifest)
        need((manifest.run, manifest.step) == (run, step), f"§6: the manifest of {run} step {step} is of another")
        need(manifest.fingerprint()[:8] == found[-1].fingerprint_start, f"§6: the fingerprint of {run} step {step}")
        return manifest

    def tags(self):
        """§7: the newest object of each tag, as (name, run, seq, step); removed ones are left out."""
        for folder in sorted((self.folder / "tags").glob("*")):
            for seq, path in newest_first(folder)[:1]:
                reader = unsealed(path.read_bytes(), f"tag {folder.name}")
                removed = reader.choice(0, 1)
                need(reader.text() == checked_name(folder.name), f"§7: tag {folder.name} has another name")
                need(reader.varint() == seq, f"§7: tag {folder.name} has another number")
                reader.take(32)
                run, commit, step = reader.text(), reader.varint(), reader.varint()
                reader.take(16)
                reader.varint()
                reader.end()
                if not removed:
                    yield folder.name, run, commit, step
