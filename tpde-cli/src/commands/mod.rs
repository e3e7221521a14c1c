//! The subcommands, one file each.

pub(crate) mod commit;
pub(crate) mod completions;
pub(crate) mod copy;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod forget;
pub(crate) mod gc;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod policy;
pub(crate) mod repack;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod save;
pub(crate) mod save_part;
pub(crate) mod show;
pub(crate) mod stats;
pub(crate) mod tag;
pub(crate) mod undo;
pub(crate) mod verify;
pub(crate) mod watch;

use std::collections::BTreeMap;

use globset::{Glob, GlobSet, GlobSetBuilder};

use tpde_store::{Manifest, Metrics, Store, StoreError};

use crate::failure::Failure;
use crate::session::Named;

/// Said of a checkpoint whose weights are not decoded without their masters.
const ARCHIVED: &str = "archived: weights are stored as roundings of their masters, and read through them";

/// Said below a table in which a largest distance looks like damage, and is none.
const FAR: &str = "  max ulp: a weight that crosses zero is far in ulps, for all small floats lie between, and near in value";

/// Whether a distance in ulps is longer than from a float to twice its value.
fn is_far(dtype: &str, ulps: u64) -> bool {
    let mantissa_bits = match dtype {
        "F64" => 52,
        "F32" => 23,
        "F16" => 10,
        "BF16" => 7,
        "F8_E4M3" => 3,
        "F8_E5M2" => 2,
        _ => return false,
    };
    ulps > 1 << mantissa_bits
}

/// The set of `globs`, or `None` of none.
fn globs(globs: &[Glob]) -> Result<Option<GlobSet>, Failure> {
    if globs.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.clone());
    }
    set.build().map(Some).map_err(|error| Failure::Usage {
        message: error.to_string(),
        hint: "Write fewer or simpler patterns".to_owned(),
    })
}

/// Metrics as JSON has them.
fn by_name(metrics: &Metrics) -> BTreeMap<String, f64> {
    let pair = |m: &tpde_store::Metric| (m.name().to_owned(), m.value);
    metrics.iter().map(pair).collect()
}

/// Metrics on one line: `acc 0.71, loss 1.93`.
fn metric_list(metrics: &BTreeMap<String, f64>) -> String {
    let shown: Vec<String> = metrics
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    shown.join(", ")
}

/// A tensor's shape: `[384, 128]`.
fn shape(dims: &[u64]) -> String {
    let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The parent by run and step, as its own manifest names it; by id alone if that is gone.
fn parent_of(store: &Store, manifest: &Manifest) -> Result<Option<Named>, Failure> {
    let Some(id) = manifest.parent else {
        return Ok(None);
    };
    let place = match store.manifest(id) {
        Ok(parent) => Some((parent.run, parent.step)),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Named {
        manifest: id.to_hex(),
        run: place.as_ref().map(|(run, _)| run.clone()),
        seq: None,
        step: place.map(|(_, step)| step),
    }))
}
