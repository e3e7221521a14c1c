//! What a file consists of, as bytes of a manifest (docs/format.md §6).

use tpde_core::CodecError;
use tpde_core::wire::{Reader, Writer};

use super::checks::{Lists, check_shape, index};
use super::wire::{MAX_DIMS, corrupt};
use super::{BlobRecord, FileContent, NamedTensor, TensorRecord};
use crate::roles::Role;
use crate::summary::{unzigzag, zigzag};

const WHAT: &str = "manifest";
const DIRECTORY: u8 = 0;
const OPAQUE: u8 = 1;
const SAFETENSORS: u8 = 2;
const TORCH: u8 = 3;

type Read<T> = std::result::Result<T, CodecError>;

impl FileContent {
    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            Self::Directory => w.u8(DIRECTORY),
            Self::Opaque { digest, blobs } => {
                w.u8(OPAQUE);
                w.raw(digest);
                write_list(w, blobs);
            }
            Self::Safetensors { header, tensors } => {
                w.u8(SAFETENSORS);
                write_list(w, header);
                write_tensors(w, tensors);
            }
            Self::Torch {
                container,
                tensors,
                gap_bytes,
            } => {
                w.u8(TORCH);
                write_list(w, container);
                write_tensors(w, tensors);
                gap_bytes.iter().for_each(|&gap| w.varint(gap));
            }
        }
    }

    /// Reads what a file consists of; `tensors` and `blobs` are those of its manifest.
    pub(super) fn read(
        r: &mut Reader<'_>,
        lists: &mut Lists,
        tensors: &[TensorRecord],
        blobs: &[BlobRecord],
    ) -> Read<Self> {
        Ok(match r.u8(WHAT)? {
            DIRECTORY => Self::Directory,
            OPAQUE => Self::Opaque {
                digest: r.array(WHAT)?,
                blobs: read_list(r, lists, blobs.len())?,
            },
            SAFETENSORS => Self::Safetensors {
                header: read_list(r, lists, blobs.len())?,
                tensors: read_tensors(r, lists, tensors)?,
            },
            TORCH => {
                let container = read_list(r, lists, blobs.len())?;
                let tensors = read_tensors(r, lists, tensors)?;
                let gap_bytes = tensors
                    .iter()
                    .map(|_| r.varint(WHAT))
                    .collect::<Read<Vec<u64>>>()?;
                let all: u128 = gap_bytes.iter().map(|&gap| u128::from(gap)).sum();
                let held: u128 = container
                    .iter()
                    .map(|&b| u128::from(blobs[b as usize].len_bytes))
                    .sum();
                if all > held {
                    return Err(corrupt(&format!(
                        "{all} bytes between tensors in a container of {held}"
                    )));
                }
                Self::Torch {
                    container,
                    tensors,
                    gap_bytes,
                }
            }
            other => {
                let (found, known) = (other.into(), TORCH.into());
                return Err(CodecError::Unsupported {
                    what: "file kind",
                    found,
                    known,
                });
            }
        })
    }
}

fn write_list(w: &mut Writer, list: &[u32]) {
    w.varint(list.len() as u64);
    list.iter().for_each(|&i| w.varint(i.into()));
}

fn read_list(r: &mut Reader<'_>, lists: &mut Lists, len: usize) -> Read<Vec<u32>> {
    let count = lists.count(r, 1)?;
    (0..count).map(|_| index(r, len)).collect()
}

fn write_tensors(w: &mut Writer, tensors: &[NamedTensor]) {
    w.varint(tensors.len() as u64);
    tensors.iter().for_each(|t| w.prefixed(t.name.as_bytes()));
    tensors.iter().for_each(|t| w.u8(t.role as u8));
    for t in tensors {
        w.varint(t.shape.len() as u64);
        t.shape.iter().for_each(|&d| w.varint(d));
    }
    let mut expected = 0u32;
    for t in tensors {
        // Mostly the content after that of the one before.
        w.varint(zigzag(expected.into(), t.tensor.into()));
        expected = t.tensor.saturating_add(1);
    }
}

fn read_tensors(r: &mut Reader<'_>, lists: &mut Lists, tensors: &[TensorRecord]) -> Read<Vec<NamedTensor>> {
    let count = lists.count(r, 4)?;
    let names = (0..count).map(|_| r.text(WHAT).map(str::to_owned));
    let names: Vec<String> = names.collect::<Read<_>>()?;
    let roles = (0..count).map(|_| {
        let code = r.u8(WHAT)?;
        Role::from_code(code).ok_or_else(|| corrupt(&format!("role {code}")))
    });
    let roles: Vec<Role> = roles.collect::<Read<_>>()?;
    let shapes = (0..count).map(|_| {
        let dims = lists.count(r, 1)?;
        if dims > MAX_DIMS {
            return Err(corrupt(&format!("{dims} dimensions")));
        }
        (0..dims).map(|_| r.varint(WHAT)).collect::<Read<Vec<u64>>>()
    });
    let shapes: Vec<Vec<u64>> = shapes.collect::<Read<_>>()?;
    let mut named = Vec::with_capacity(count);
    let mut expected = 0u64;
    for ((name, role), shape) in names.into_iter().zip(roles).zip(shapes) {
        let tensor = unzigzag(expected, r.varint(WHAT)?);
        let tensor = u32::try_from(tensor)
            .ok()
            .filter(|&i| (i as usize) < tensors.len())
            .ok_or_else(|| corrupt(&format!("index {tensor} of {}", tensors.len())))?;
        expected = u64::from(tensor) + 1;
        check_shape(&shape, &tensors[tensor as usize])
            .map_err(|e| corrupt(&format!("tensor {name:?}: {e}")))?;
        named.push(NamedTensor {
            name,
            shape,
            tensor,
            role,
        });
    }
    Ok(named)
}
