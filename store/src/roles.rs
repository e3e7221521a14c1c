//! Roles: what a tensor is to its training run, told by its name, and which tensors belong together.
//!
//! ```text
//! model.layers.0.weight                          weight  ◀─┐ rounds to
//! optimizer.master.model.layers.0.weight         master  ──┘
//! optimizer.exp_avg.model.layers.0.weight        first moment  ──┐ has the scale of
//! optimizer.exp_avg_sq.model.layers.0.weight     second moment ◀─┘
//! ```
//! The habits of PyTorch, Hugging Face, Megatron, DeepSpeed, Apex, torchtitan and Optax are known. A role decides what is tried,
//! never what is true: a tensor whose name lies costs bytes, not exactness.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tpde_core::{Dtype, Layout, Relation};

/// What a tensor is to its training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// None of the others: buffers, counters, states of random generators.
    Other = 0,
    /// A weight that the model computes with.
    Weight = 1,
    /// A weight in full precision, which the optimizer updates.
    Master = 2,
    /// First moment of the gradients, momentum.
    ExpAvg = 3,
    /// Second moment of the gradients.
    ExpAvgSq = 4,
}

impl Role {
    /// All roles, by code.
    pub const ALL: [Self; 5] = [
        Self::Other,
        Self::Weight,
        Self::Master,
        Self::ExpAvg,
        Self::ExpAvgSq,
    ];

    /// The role with this code in a manifest.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&role| role as u8 == code)
    }

    /// As documents and answers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Weight => "weight",
            Self::Master => "master",
            Self::ExpAvg => "exp_avg",
            Self::ExpAvgSq => "exp_avg_sq",
        }
    }
}

/// Parts of names that tell a role.
const MARKERS: &[(&str, Role)] = &[
    ("master", Role::Master),
    ("masters", Role::Master),
    ("master_param", Role::Master),
    ("master_params", Role::Master),
    ("master_weight", Role::Master),
    ("master_weights", Role::Master),
    ("fp32_param", Role::Master),
    ("fp32_params", Role::Master),
    ("fp32_master", Role::Master),
    ("fp32_from_fp16", Role::Master),
    ("fp32_from_fp16_params", Role::Master),
    ("fp32_flat_groups", Role::Master),
    ("single_partition_of_fp32_groups", Role::Master),
    ("exp_avg", Role::ExpAvg),
    ("momentum_buffer", Role::ExpAvg),
    ("momentum", Role::ExpAvg),
    ("exp_avg_sq", Role::ExpAvgSq),
    ("max_exp_avg_sq", Role::ExpAvgSq),
    ("square_avg", Role::ExpAvgSq),
];

/// Shorter ones, which tell a role below an optimizer only.
const SHORT_MARKERS: &[(&str, Role)] = &[
    ("fp32", Role::Master),
    ("m", Role::ExpAvg),
    ("mu", Role::ExpAvg),
    ("v", Role::ExpAvgSq),
    ("nu", Role::ExpAvgSq),
];

/// Parts of names that say that an optimizer's state follows.
const OPTIMIZERS: &[&str] = &[
    "optimizer",
    "optim",
    "opt",
    "opt_state",
    "optimizer_state",
    "optimizer_states",
    "optimizer_state_dict",
    "optim_state_dict",
    "adam",
    "adamw",
];
/// Parts of names between an optimizer and the name of a weight.
const SCAFFOLDING: &[&str] = &["state", "state_dict", "inner_state", "param"];
/// Leading parts of a weight's name that some writers leave out.
const WRAPPERS: &[&str] = &[
    "model",
    "module",
    "params",
    "_orig_mod",
    "base_model",
    "state_dict",
];

/// Last parts of names that do not tell what a tensor is for.
const LEAVES: &[&str] = &["weight", "bias", "kernel", "scale", "embedding"];

/// Stands for all files; no path is empty.
const ANY_FILE: &str = "";

/// A name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parsed {
    role: Role,
    /// Parts that name the weight that it belongs to.
    stem: Vec<String>,
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(['.', '/', ':']).filter(|part| !part.is_empty())
}

fn is_one_of(part: &str, list: &[&str]) -> bool {
    list.iter().any(|word| part.eq_ignore_ascii_case(word))
}

fn marker(part: &str, below_optimizer: bool) -> Option<Role> {
    let short = SHORT_MARKERS.iter().filter(|_| below_optimizer);
    let mut all = MARKERS.iter().chain(short);
    all.find(|(word, _)| part.eq_ignore_ascii_case(word))
        .map(|&(_, role)| role)
}

/// Takes apart the name of a tensor of file `path`. A file or folder may be named after the role of all tensors in it.
fn parse(path: &str, name: &str, dtype: Dtype) -> Parsed {
    let stem_of_path = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let of_optimizer = |text: &str| parts(text).any(|part| is_one_of(part, OPTIMIZERS));
    let below_optimizer = of_optimizer(name) || of_optimizer(stem_of_path);
    let in_name = parts(name).find_map(|part| marker(part, below_optimizer));
    let in_path = || parts(stem_of_path).find_map(|part| marker(part, below_optimizer));
    let is_float = matches!(dtype.layout(), Layout::Float { .. });
    let role = match in_name.or_else(in_path) {
        Some(role) if is_float => role,
        None if is_float && !below_optimizer => Role::Weight,
        _ => Role::Other,
    };
    let mut is_leading = true;
    let stem = parts(name).filter(|part| {
        if in_name.is_some() && marker(part, below_optimizer) == in_name {
            return false;
        }
        is_leading &= is_one_of(part, OPTIMIZERS) || is_one_of(part, SCAFFOLDING);
        role == Role::Weight || !is_leading
    });
    Parsed {
        role,
        stem: stem.map(str::to_owned).collect(),
    }
}

/// The role of a tensor called `name` in file `path`.
pub fn role_of(path: &str, name: &str, dtype: Dtype) -> Role {
    parse(path, name, dtype).role
}

/// Where in a model a tensor belongs, told by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The layer and the stack that it is in, such as `layers.3`; of a tensor outside all layers, what it is called there.
    pub layer: String,
    /// Its part of the layer, such as `q_proj`; empty for one outside all layers.
    pub part: String,
    /// Number of the layer.
    pub number: Option<u64>,
}

/// Where in its model the tensor called `name` in file `path` belongs. What belongs to one weight (its master, its moments) has its
/// place.
pub fn place_of(path: &str, name: &str, dtype: Dtype) -> Place {
    let stem = parse(path, name, dtype).stem;
    // A number at the very front counts an optimizer's parameters, and no layers.
    let mut parts: Vec<&str> = stem.iter().map(String::as_str).collect();
    let wrappers = parts.iter().take_while(|part| is_one_of(part, WRAPPERS)).count();
    parts.drain(..wrappers.min(parts.len().saturating_sub(1)));
    let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let number_at = parts.iter().position(is_number).filter(|&at| at > 0);
    let telling = |parts: &[&str]| {
        let named = parts.iter().rev().filter(|part| !is_number(part));
        let mut named = named.skip_while(|part| is_one_of(part, LEAVES));
        named.next().map(|part| (*part).to_owned())
    };
    match number_at {
        Some(at) => Place {
            layer: format!("{}.{}", parts[at - 1], parts[at]),
            part: telling(&parts[at + 1..]).unwrap_or_default(),
            number: parts[at].parse().ok(),
        },
        None => Place {
            layer: telling(&parts).unwrap_or_else(|| name.to_owned()),
            part: String::new(),
            number: None,
        },
    }
}

/// A content, and all that it is called.
#[derive(Debug, Clone)]
pub(crate) struct Named<'n> {
    pub(crate) dtype: Dtype,
    pub(crate) elems: u64,
    /// Files and names.
    pub(crate) names: &'n [(String, String)],
}

/// What each tensor of a checkpoint may be given: its place in `tensors`, and how the two relate.
///
/// Law: a given tensor is itself given none, so one pass over the tensors that have none and one over the others meets each
/// after what it needs.
///
/// * `archive`: weights are given their masters, and not the other way round.
pub(crate) fn pairs(tensors: &[Named<'_>], archive: bool) -> Vec<Option<(Relation, usize)>> {
    // By file, role and stem; and under no file, for partners in other files.
    let mut places: HashMap<(&str, Role, Vec<String>), Option<usize>> = HashMap::new();
    let mut parsed = Vec::with_capacity(tensors.len());
    for (i, tensor) in tensors.iter().enumerate() {
        let names = tensor.names.iter();
        let all: Vec<(&str, Parsed)> = names
            .map(|(path, name)| (path.as_str(), parse(path, name, tensor.dtype)))
            .collect();
        for (path, Parsed { role, stem }) in &all {
            for (path, short) in [path, ANY_FILE]
                .into_iter()
                .flat_map(|p| shortened(stem).map(move |s| (p, s)))
            {
                match places.entry((path, *role, short.to_vec())) {
                    Entry::Vacant(place) => {
                        place.insert(Some(i));
                    }
                    // A stem that two contents answer to names neither.
                    Entry::Occupied(mut place) if *place.get() != Some(i) => {
                        place.insert(None);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
        parsed.push(all);
    }
    let place = |file, role, stem: &[String]| places.get(&(file, role, stem.to_vec())).copied().flatten();
    let partner = |i: usize, role: Role| {
        let lookups = parsed[i].iter().flat_map(|(path, p)| {
            let files = [*path, ANY_FILE].into_iter();
            files.flat_map(move |file| shortened(&p.stem).map(move |stem| (file, p.role, stem)))
        });
        // Whoever shares a name with another has no partner by it either.
        let own = lookups.filter(|&(file, own_role, stem)| place(file, own_role, stem) == Some(i));
        own.filter_map(|(file, _, stem)| place(file, role, stem))
            .find(|&other| other != i && tensors[other].elems == tensors[i].elems)
    };
    let given = |i: usize| {
        let has = |role: Role| parsed[i].iter().any(|(_, p)| p.role == role);
        let (relation, partner) = if has(Role::Master) && !archive {
            (Relation::Rounded, partner(i, Role::Weight)?)
        } else if has(Role::Weight) && archive {
            (Relation::Cast, partner(i, Role::Master)?)
        } else if has(Role::ExpAvg) {
            (Relation::Scale, partner(i, Role::ExpAvgSq)?)
        } else {
            return None;
        };
        let dtype = tensors[i].dtype;
        let fits = relation.fits(dtype) && tensors[partner].dtype == relation.given_dtype(dtype);
        fits.then_some((relation, partner))
    };
    let mut given: Vec<_> = (0..tensors.len()).map(given).collect();
    // A content with names of two roles could stand on both sides; it stands alone.
    for i in 0..given.len() {
        if let Some((_, partner)) = given[i]
            && given[partner].is_some()
        {
            given[i] = None;
        }
    }
    given
}

/// A stem as it is, then without each leading part that writers leave out.
fn shortened(stem: &[String]) -> impl Iterator<Item = &[String]> {
    let wrappers = stem.iter().take_while(|part| is_one_of(part, WRAPPERS)).count();
    (0..=wrappers.min(stem.len().saturating_sub(1))).map(|n| &stem[n..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the names that trainers write tell their roles.
    #[test]
    fn names_tell_roles() {
        let told = [
            ("model.layers.0.self_attn.q_proj.weight", Role::Weight),
            ("lm_head.weight", Role::Weight),
            ("optimizer.master.model.norm.weight", Role::Master),
            (
                "optimizer.state.fp32_param.decoder.final_norm.weight",
                Role::Master,
            ),
            ("optimizer.state.exp_avg.decoder.final_norm.weight", Role::ExpAvg),
            ("optimizer.state.model.norm.weight.exp_avg_sq", Role::ExpAvgSq),
            ("optim.state.norm.weight.momentum_buffer", Role::ExpAvg),
            ("opt_state/0/mu/params/dense/kernel", Role::ExpAvg),
            ("opt_state/0/nu/params/dense/kernel", Role::ExpAvgSq),
            ("params/dense/kernel", Role::Weight),
            // A layer may be called so without an optimizer in sight.
            ("encoder.v.weight", Role::Weight),
            ("optimizer.step", Role::Other),
            // As PyTorch's optimizers number them.
            ("optimizer_state_dict.state.3.exp_avg", Role::ExpAvg),
            ("optimizer_states.0.state.3.exp_avg_sq", Role::ExpAvgSq),
            ("optimizer.state.3.step", Role::Other),
        ];
        for (name, role) in told {
            assert_eq!(role_of("state.safetensors", name, Dtype::F32), role, "{name}");
        }
        assert_eq!(role_of("rng.safetensors", "cuda", Dtype::U8), Role::Other);
        assert_eq!(
            role_of("optimizer/exp_avg.safetensors", "norm.weight", Dtype::F32),
            Role::ExpAvg
        );
        assert_eq!(
            role_of("optim/fp32.safetensors", "norm.weight", Dtype::F32),
            Role::Master
        );
    }

    /// Promise: layers and their parts are told by names, whatever wraps them; a tensor outside all layers is its own; an optimizer's
    /// numbers are no layers.
    #[test]
    fn names_tell_places() {
        let told = [
            (
                "model.layers.3.self_attn.q_proj.weight",
                "layers.3",
                "q_proj",
                Some(3),
            ),
            (
                "optimizer.exp_avg.model.layers.3.self_attn.q_proj.weight",
                "layers.3",
                "q_proj",
                Some(3),
            ),
            (
                "optimizer.state.model.layers.11.mlp.up_proj.weight.exp_avg_sq",
                "layers.11",
                "up_proj",
                Some(11),
            ),
            ("transformer.h.0.attn.c_attn.bias", "h.0", "c_attn", Some(0)),
            (
                "model.layers.2.block_sparse_moe.experts.7.w1.weight",
                "layers.2",
                "w1",
                Some(2),
            ),
            (
                "encoder.block.1.layer.0.SelfAttention.q.weight",
                "block.1",
                "q",
                Some(1),
            ),
            ("model.layers.0.weight", "layers.0", "", Some(0)),
            ("model.embed_tokens.weight", "embed_tokens", "", None),
            ("optimizer.master.model.norm.weight", "norm", "", None),
            ("lm_head.weight", "lm_head", "", None),
            ("weight", "weight", "", None),
            ("optimizer.state.3.exp_avg", "optimizer.state.3.exp_avg", "", None),
        ];
        for (name, layer, part, number) in told {
            let place = place_of("state.safetensors", name, Dtype::F32);
            assert_eq!(
                (place.layer.as_str(), place.part.as_str(), place.number),
                (layer, part, number),
                "{name}"
            );
        }
    }

    fn related(all: &[(&str, &str, Dtype, u64)], archive: bool) -> Vec<Option<(Relation, usize)>> {
        let names: Vec<[(String, String); 1]> = all
            .iter()
            .map(|(path, name, ..)| [((*path).to_owned(), (*name).to_owned())])
            .collect();
        let named = all
            .iter()
            .zip(&names)
            .map(|(&(_, _, dtype, elems), names)| Named { dtype, elems, names });
        pairs(&named.collect::<Vec<_>>(), archive)
    }

    /// Promise: masters are given weights and first moments second ones, across files and under shortened names.
    #[test]
    fn pairs_are_found() {
        use Dtype::{BF16, F32};
        let all = [
            ("model.safetensors", "model.layers.0.weight", BF16, 10),
            ("optim.safetensors", "optimizer.master.layers.0.weight", F32, 10),
            (
                "optim.safetensors",
                "optimizer.state.model.layers.0.weight.exp_avg",
                F32,
                10,
            ),
            (
                "optim.safetensors",
                "optimizer.state.model.layers.0.weight.exp_avg_sq",
                F32,
                10,
            ),
            ("optimizer/exp_avg.safetensors", "b", BF16, 4),
            ("optimizer/exp_avg_sq.safetensors", "b", BF16, 4),
        ];
        let given = [
            None,
            Some((Relation::Rounded, 0)),
            Some((Relation::Scale, 3)),
            None,
            Some((Relation::Scale, 5)),
            None,
        ];
        assert_eq!(related(&all, false), given);
        let mut archived = given;
        (archived[0], archived[1]) = (Some((Relation::Cast, 1)), None);
        assert_eq!(related(&all, true), archived);
    }

    /// Promise: files of a sharded checkpoint that use the same names are not mixed up.
    #[test]
    fn shards_keep_to_themselves() {
        use Dtype::{BF16, F32};
        let shards = [
            ("0.safetensors", "w", BF16, 10),
            ("1.safetensors", "w", BF16, 10),
            ("0.safetensors", "optimizer.master.w", F32, 10),
            ("1.safetensors", "optimizer.master.w", F32, 10),
        ];
        let rounded = |i| Some((Relation::Rounded, i));
        assert_eq!(related(&shards, false), [None, None, rounded(0), rounded(1)]);
    }

    /// Promise: other types, other lengths and names that two tensors answer to make no pair.
    #[test]
    fn what_does_not_fit_stays_alone() {
        use Dtype::{BF16, F16, F32};
        let none = |all: &[(&str, &str, Dtype, u64)]| {
            for archive in [false, true] {
                assert!(related(all, archive).iter().all(Option::is_none), "{all:?}");
            }
        };
        none(&[("a", "w", BF16, 10), ("a", "optimizer.master.w", F32, 11)]);
        none(&[("a", "w", F16, 10), ("a", "optimizer.master.w", F32, 10)]);
        none(&[("a", "w", BF16, 10), ("a", "optimizer.master.w", BF16, 10)]);
        none(&[
            ("a", "optimizer.exp_avg.w", F32, 10),
            ("a", "optimizer.exp_avg_sq.w", BF16, 10),
        ]);
        none(&[
            ("a", "w", BF16, 10),
            ("b", "w", BF16, 10),
            ("c", "optimizer.master.w", F32, 10),
        ]);
    }
}
