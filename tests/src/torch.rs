//! PyTorch files, made by hand: a pickle and a zip archive around it, as `torch.save` writes them, and as it never would.

/// A value that is pickled.
#[derive(Debug, Clone)]
pub enum Item {
    /// An integer of 32 bits.
    Int(i32),
    /// A text.
    Text(String),
    /// A dictionary.
    Dict(Vec<(Item, Item)>),
    /// A list.
    List(Vec<Item>),
    /// A tensor.
    Tensor(TensorItem),
    /// A tensor in the shell of a parameter.
    Parameter(TensorItem),
    /// Opcodes that leave one value.
    Raw(Vec<u8>),
}

/// A tensor that stands on a storage.
#[derive(Debug, Clone)]
pub struct TensorItem {
    /// Number of the storage.
    pub key: u32,
    /// Class of the storage, such as `FloatStorage`.
    pub class: &'static str,
    /// Elements of the storage.
    pub elems: u32,
    /// First element of the tensor.
    pub offset: u32,
    /// Its shape.
    pub shape: Vec<u32>,
    /// Its strides, in elements.
    pub strides: Vec<u32>,
}

impl TensorItem {
    /// A tensor of all of a storage, row after row.
    pub fn whole(key: u32, class: &'static str, shape: &[u32]) -> Self {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        Self {
            key,
            class,
            elems: shape.iter().product(),
            offset: 0,
            shape: shape.to_vec(),
            strides,
        }
    }
}

/// A dictionary whose keys are texts.
pub fn dict<const N: usize>(items: [(&str, Item); N]) -> Item {
    let items = items.into_iter();
    Item::Dict(
        items
            .map(|(key, item)| (Item::Text(key.to_owned()), item))
            .collect(),
    )
}

/// A program of protocol 2 that makes `item`.
pub fn pickle(item: &Item) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    write(&mut out, item);
    out.push(b'.');
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn int(out: &mut Vec<u8>, number: u32) {
    out.push(b'J');
    out.extend_from_slice(&number.to_le_bytes());
}

fn ints(out: &mut Vec<u8>, numbers: &[u32]) {
    out.push(b'(');
    numbers.iter().for_each(|&n| int(out, n));
    out.push(b't');
}

fn write(out: &mut Vec<u8>, item: &Item) {
    match item {
        Item::Int(number) => int(out, *number as u32),
        Item::Text(t) => text(out, t),
        Item::Dict(items) => {
            out.extend_from_slice(b"}(");
            for (key, value) in items {
                write(out, key);
                write(out, value);
            }
            out.push(b'u');
        }
        Item::List(items) => {
            out.extend_from_slice(b"](");
            items.iter().for_each(|item| write(out, item));
            out.push(b'e');
        }
        Item::Tensor(tensor) => {
            out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(out, "storage");
            out.extend_from_slice(format!("ctorch\n{}\n", tensor.class).as_bytes());
            text(out, &tensor.key.to_string());
            text(out, "cpu");
            int(out, tensor.elems);
            out.extend_from_slice(b"tQ");
            int(out, tensor.offset);
            ints(out, &tensor.shape);
            ints(out, &tensor.strides);
            out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
        }
        Item::Parameter(tensor) => {
            out.extend_from_slice(b"ctorch._utils\n_rebuild_parameter\n(");
            write(out, &Item::Tensor(tensor.clone()));
            out.extend_from_slice(b"\x88ccollections\nOrderedDict\n)RtR");
        }
        Item::Raw(opcodes) => out.extend_from_slice(opcodes),
    }
}

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its bytes, as they stand in the archive.
    pub bytes: Vec<u8>,
    /// Compression method: 0 stored, 8 deflated.
    pub method: u16,
    /// General flags; bit 3 says that sizes and checksum follow the bytes.
    pub flags: u16,
}

impl Entry {
    /// A stored entry with sizes behind its bytes, as PyTorch writes it.
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.to_owned(),
            bytes: bytes.into(),
            method: 0,
            flags: 8,
        }
    }
}

/// The entries of a PyTorch file: its pickle, its storages by number, its version.
pub fn entries(pickle: Vec<u8>, storages: &[(u32, Vec<u8>)]) -> Vec<Entry> {
    let mut all = vec![
        Entry::new("archive/data.pkl", pickle),
        Entry::new("archive/byteorder", *b"little"),
    ];
    let storage = |(key, bytes): &(u32, Vec<u8>)| Entry::new(&format!("archive/data/{key}"), bytes.clone());
    all.extend(storages.iter().map(storage));
    all.push(Entry::new("archive/version", *b"3\n"));
    all
}

/// An archive, with the bytes of every entry at a multiple of 64.
///
/// * `wide`: with the records of large archives, and their numbers in the directory.
pub fn archive(entries: &[Entry], wide: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    let u16s =
        |out: &mut Vec<u8>, all: &[u16]| all.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    let u32s =
        |out: &mut Vec<u8>, all: &[u32]| all.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    let u64s =
        |out: &mut Vec<u8>, all: &[u64]| all.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    for entry in entries {
        let (at, len, crc) = (out.len(), entry.bytes.len() as u32, crc32(&entry.bytes));
        let fixed = at + 30 + entry.name.len() + 4;
        let padding = fixed.next_multiple_of(64) - fixed;
        let is_late = entry.flags & 8 != 0;
        out.extend_from_slice(b"PK\x03\x04");
        u16s(&mut out, &[20, entry.flags, entry.method, 0, 0]);
        u32s(&mut out, &if is_late { [0; 3] } else { [crc, len, len] });
        u16s(&mut out, &[entry.name.len() as u16, 4 + padding as u16]);
        out.extend_from_slice(entry.name.as_bytes());
        out.extend_from_slice(b"FB");
        u16s(&mut out, &[padding as u16]);
        out.resize(out.len() + padding, b'Z');
        out.extend_from_slice(&entry.bytes);
        if is_late {
            out.extend_from_slice(b"PK\x07\x08");
            u32s(&mut out, &[crc, len, len]);
        }
        directory.extend_from_slice(b"PK\x01\x02");
        u16s(&mut directory, &[0, 20, entry.flags, entry.method, 0, 0]);
        let narrow = if wide { u32::MAX } else { len };
        u32s(&mut directory, &[crc, narrow, narrow]);
        u16s(
            &mut directory,
            &[entry.name.len() as u16, if wide { 28 } else { 0 }, 0, 0, 0],
        );
        u32s(&mut directory, &[0, if wide { u32::MAX } else { at as u32 }]);
        directory.extend_from_slice(entry.name.as_bytes());
        if wide {
            u16s(&mut directory, &[1, 24]);
            u64s(&mut directory, &[len.into(), len.into(), at as u64]);
        }
    }
    let (at, count) = (out.len(), entries.len());
    out.extend_from_slice(&directory);
    if wide {
        let record = out.len() as u64;
        out.extend_from_slice(b"PK\x06\x06");
        u64s(&mut out, &[44]);
        u16s(&mut out, &[45, 45]);
        u32s(&mut out, &[0, 0]);
        u64s(
            &mut out,
            &[count as u64, count as u64, directory.len() as u64, at as u64],
        );
        out.extend_from_slice(b"PK\x06\x07");
        u32s(&mut out, &[0]);
        u64s(&mut out, &[record]);
        u32s(&mut out, &[1]);
    }
    out.extend_from_slice(b"PK\x05\x06");
    u16s(&mut out, &[0, 0, count as u16, count as u16]);
    u32s(
        &mut out,
        &[directory.len() as u32, if wide { u32::MAX } else { at as u32 }],
    );
    u16s(&mut out, &[0]);
    out
}

/// The checksum of zip archives.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}
