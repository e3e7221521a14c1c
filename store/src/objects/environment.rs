//! Variables and files from which a backend takes its settings: those of the process, or a test's own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Named values, as the environment of a process holds them.
///
/// Names that are not set and names that are set to nothing mean the same.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Names only: values may be secret.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let named = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(
            named
                .filter(|(_, value): &(_, String)| !value.is_empty())
                .collect(),
        )
    }
}

impl Environment {
    /// The variables of this process; those that are not text are passed over.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The first of `names` that is set, and its value.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &str)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    /// Whether `name` is set to `true` or `1`.
    pub(super) fn is_on(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default();
        value == "1" || value.eq_ignore_ascii_case("true")
    }

    /// All names that begin with `prefix`, in lower case, with their values.
    pub(super) fn below<'e>(&'e self, prefix: &'e str) -> impl Iterator<Item = (String, &'e str)> {
        let named = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        named.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }

    /// The file `name` in the home folder.
    pub(super) fn at_home(&self, name: &str) -> Option<PathBuf> {
        Some(PathBuf::from(self.get("HOME")?).join(name))
    }
}
