//! What a pickle says of storages: their types, and the tensors that stand on them.
//!
//! ```text
//! _rebuild_tensor_v2( persistent("storage", FloatStorage, "7", "cpu", 12), 0, (3, 4), (4, 1), … )
//!                                storage 7: 12 words of F32               a tensor of all of it
//! ```

use std::collections::HashMap;

use tpde_core::Dtype;

use super::pickle::{Call, Node, Program, Value};

/// Most dimensions that a shape keeps; PyTorch's tensors have fewer, but those of a hostile file could fill a manifest.
const MAX_KEPT_DIMS: usize = 8;
/// Stands for no storage.
const NONE: u32 = u32::MAX;

/// What is known of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its own type; `None` for one of bytes without a type.
    own: Option<Type>,
    /// Elements of its type; bytes for one without.
    len: u64,
    /// Whether all that is said of it agrees.
    is_clear: bool,
    view: View,
    /// The name of the first tensor that stands on it.
    pub(super) name: Option<String>,
}

/// A type of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Type {
    dtype: Dtype,
    /// How many of `dtype` one element is.
    per: u64,
}

/// The tensors that stand on a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
enum View {
    Nothing,
    /// Tensors of one type. `shape`: if all are the same, row after row from the start.
    Typed {
        dtype: Option<Type>,
        shape: Option<Vec<u64>>,
    },
    /// Tensors of several types.
    Mixed,
}

impl Storage {
    /// Element type and shape of its `len_bytes`; `None` if that is not what the pickle says.
    pub(super) fn layout(&self, len_bytes: u64) -> Option<(Dtype, Vec<u64>)> {
        const BYTES: Type = Type {
            dtype: Dtype::U8,
            per: 1,
        };
        if !self.is_clear {
            return None;
        }
        let (seen, shape) = match &self.view {
            View::Typed { dtype, shape } => (*dtype, shape.as_deref()),
            View::Nothing | View::Mixed => (None, None),
        };
        let own = self.own.unwrap_or(BYTES);
        if bytes_of(&[self.len], own) != Some(len_bytes) {
            return None;
        }
        let fitting = |ty: &Type| len_bytes.is_multiple_of(ty.dtype.shape_bits() / 8 * ty.per);
        let Type { dtype, per } = seen.or(self.own).filter(fitting).unwrap_or(BYTES);
        let flat = len_bytes / (dtype.shape_bits() / 8);
        let whole = |shape: &&[u64]| per == 1 && bytes_of(shape, Type { dtype, per }) == Some(len_bytes);
        Some((
            dtype,
            shape.filter(whole).map_or_else(|| vec![flat], <[u64]>::to_vec),
        ))
    }

    /// Notes a tensor that stands on it.
    fn see(&mut self, tensor: &Tensor) {
        let shape = || tensor.is_plain.then(|| tensor.shape.clone());
        self.view = match std::mem::replace(&mut self.view, View::Mixed) {
            View::Nothing => View::Typed {
                dtype: tensor.dtype,
                shape: shape(),
            },
            View::Typed { dtype, shape: known } if dtype == tensor.dtype => View::Typed {
                dtype,
                shape: known.filter(|known| tensor.is_plain && *known == tensor.shape),
            },
            View::Typed { .. } | View::Mixed => View::Mixed,
        };
    }
}

fn bytes_of(shape: &[u64], ty: Type) -> Option<u64> {
    let unit = ty.dtype.shape_bits() / 8 * ty.per;
    shape.iter().try_fold(unit, |bytes, &d| bytes.checked_mul(d))
}

/// A tensor as the pickle would make it.
struct Tensor {
    storage: u32,
    /// If it says so itself.
    dtype: Option<Type>,
    shape: Vec<u64>,
    /// Whether its elements stand one after another from the start of the storage.
    is_plain: bool,
}

/// All storages that a program tells of.
#[derive(Debug)]
pub(super) struct Told {
    list: Vec<Storage>,
    by_key: HashMap<String, u32>,
    /// For every node, the storage that it is or stands on.
    of_node: Vec<u32>,
}

impl Told {
    /// The storage with this key, which is not told of again.
    pub(super) fn remove(&mut self, key: &str) -> Option<Storage> {
        let at = self.by_key.remove(key)?;
        self.list.get(at as usize).cloned()
    }

    /// The storage that a node is or stands on.
    pub(super) fn of_node(&mut self, node: u32) -> Option<&mut Storage> {
        let at = *self.of_node.get(node as usize)?;
        self.list.get_mut(at as usize)
    }
}

/// Gathers what `program` says of storages.
pub(super) fn told(program: &Program<'_>) -> Told {
    let mut told = Told {
        list: Vec::new(),
        by_key: HashMap::new(),
        of_node: vec![NONE; program.nodes.len()],
    };
    for (at, node) in program.nodes.iter().enumerate() {
        if let Node::Persistent(id) = node
            && let Some((key, own, len)) = claim(program, *id)
        {
            let next = u32::try_from(told.list.len()).unwrap_or(NONE);
            let number = *told.by_key.entry(key.to_owned()).or_insert(next);
            if number == next {
                told.list.push(Storage {
                    own,
                    len,
                    is_clear: true,
                    view: View::Nothing,
                    name: None,
                });
            }
            let storage = &mut told.list[number as usize];
            storage.is_clear &= (storage.own, storage.len) == (own, len);
            told.of_node[at] = number;
        }
    }
    // What a tensor stands on was made before it, but may have a higher number if a hostile program says so.
    for (at, node) in program.nodes.iter().enumerate() {
        if let Node::Call(call) = node
            && let Some(tensor) = tensor(program, call, &told.of_node)
        {
            told.of_node[at] = tensor.storage;
            told.list[tensor.storage as usize].see(&tensor);
        }
    }
    told
}

/// Key, type and length of a storage, from its persistent id.
fn claim<'p>(program: &'p Program<'_>, id: Value) -> Option<(&'p str, Option<Type>, u64)> {
    let &[kind, class, key, _, Value::Int(len), ..] = program.tuple(id)? else {
        return None;
    };
    let (module, class) = program.global(class)?;
    if program.text(kind)? != "storage" || module.split('.').next() != Some("torch") {
        return None;
    }
    let own = match class {
        "UntypedStorage" | "_UntypedStorage" => None,
        typed => Some(type_of(typed.strip_suffix("Storage")?)?),
    };
    Some((program.text(key)?, own, u64::try_from(len).ok()?))
}

/// The tensor that a call would make.
fn tensor(program: &Program<'_>, call: &Call, of_node: &[u32]) -> Option<Tensor> {
    let (mut callable, mut args) = (program.global(call.callable)?, program.tuple(call.args)?);
    if callable.1 == "_rebuild_from_type_v2" {
        // Another call and its arguments, then a class and a state for the result.
        (callable, args) = (program.global(*args.first()?)?, program.tuple(*args.get(2)?)?);
    }
    let ("torch._utils", name) = callable else {
        return None;
    };
    let dtype = match name {
        "_rebuild_tensor" | "_rebuild_tensor_v2" => None,
        "_rebuild_tensor_v3" => Some(type_of(program.global(*args.get(6)?)?.1)?),
        _ => return None,
    };
    let &[Value::Node(storage), Value::Int(offset), shape, strides, ..] = args else {
        return None;
    };
    let storage = *of_node.get(storage as usize).filter(|&&at| at != NONE)?;
    let numbers = |value: Value| -> Option<Vec<u64>> {
        let numbers = program.tuple(value)?.iter().map(|&part| match part {
            Value::Int(number) => u64::try_from(number).ok(),
            _ => None,
        });
        numbers.collect()
    };
    let (shape, strides) = (numbers(shape)?, numbers(strides)?);
    let is_plain = offset == 0 && shape.len() <= MAX_KEPT_DIMS && is_row_after_row(&shape, &strides);
    Some(Tensor {
        storage,
        dtype,
        shape,
        is_plain,
    })
}

/// Whether strides are those of a tensor whose elements stand in the order of their indices, without gaps.
fn is_row_after_row(shape: &[u64], strides: &[u64]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = Some(1u64);
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || Some(stride) == expected;
            expected = expected.and_then(|e| e.checked_mul(dim));
            fits
        })
}

/// A type by the name that PyTorch gives to a storage of it, or to itself.
fn type_of(name: &str) -> Option<Type> {
    let (dtype, per) = match name {
        "Bool" | "bool" => (Dtype::Bool, 1),
        "Byte" | "uint8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => (Dtype::U8, 1),
        "Char" | "int8" | "QInt8" => (Dtype::I8, 1),
        "Short" | "int16" => (Dtype::I16, 1),
        "Int" | "int32" | "QInt32" => (Dtype::I32, 1),
        "Long" | "int64" => (Dtype::I64, 1),
        "uint16" => (Dtype::U16, 1),
        "uint32" => (Dtype::U32, 1),
        "uint64" => (Dtype::U64, 1),
        "Half" | "float16" => (Dtype::F16, 1),
        "BFloat16" | "bfloat16" => (Dtype::BF16, 1),
        "Float" | "float32" => (Dtype::F32, 1),
        "Double" | "float64" => (Dtype::F64, 1),
        "ComplexFloat" | "complex64" => (Dtype::C64, 1),
        "ComplexDouble" | "complex128" => (Dtype::F64, 2),
        "float8_e4m3fn" => (Dtype::F8E4M3, 1),
        "float8_e5m2" => (Dtype::F8E5M2, 1),
        "float8_e4m3fnuz" => (Dtype::F8E4M3Fnuz, 1),
        "float8_e5m2fnuz" => (Dtype::F8E5M2Fnuz, 1),
        "float8_e8m0fnu" => (Dtype::F8E8M0, 1),
        _ => return None,
    };
    Some(Type { dtype, per })
}
