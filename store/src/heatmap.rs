//! Where in a model two checkpoints differ: changed elements by layer, and by role or part of the layer.
//!
//! ```text
//!                 weight   master   exp_avg
//! embed_tokens        2 %     60 %     100 %
//! layers.0           12 %     …
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::diff::{Change, Diff};
use crate::roles::{Place, Role, place_of};

/// Name of the column of those parts that have none of their own.
const OTHER_PARTS: &str = "other parts";

/// Most columns: parts beyond these share one.
const MAX_PARTS: usize = 11;

/// What the columns of a heatmap stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// What tensors are to their run: weights, masters, moments.
    Role,
    /// Parts of a layer: `q_proj`, `up_proj`.
    Part,
}

/// Elements of the tensors that belong in one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// All of them.
    pub elems: u64,
    /// Those whose bits differ.
    pub changed_elems: u64,
}

impl Cell {
    /// Share of the elements that differ, 0 to 1; 0 of none.
    pub fn changed_share(&self) -> f64 {
        match self.elems {
            0 => 0.0,
            elems => self.changed_elems as f64 / elems as f64,
        }
    }

    fn add(&mut self, other: Self) {
        self.elems += other.elems;
        self.changed_elems += other.changed_elems;
    }
}

/// One layer, or what lies outside all layers under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is called.
    pub layer: String,
    /// One for each column; `None` where it has no tensors.
    pub cells: Vec<Option<Cell>>,
}

/// Changed elements by layer and column, of the tensors that both checkpoints have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heatmap {
    /// What the columns stand for.
    pub by: By,
    /// Their names.
    pub columns: Vec<String>,
    /// Embeddings first, then the layers of each stack by number, then the rest.
    pub rows: Vec<Row>,
}

/// Order of rows: embeddings, layers, the rest; each by name and number.
type RowKey = (u8, String, u64);

fn row_key(place: &Place) -> RowKey {
    let name = place.layer.to_ascii_lowercase();
    match place.number {
        Some(number) => {
            let stack = place.layer.rsplit_once('.').map_or("", |(stack, _)| stack);
            (1, stack.to_owned(), number)
        }
        None if ["emb", "wte", "wpe"].iter().any(|word| name.contains(word)) => (0, place.layer.clone(), 0),
        None => (2, place.layer.clone(), 0),
    }
}

impl Diff {
    /// Where the tensors differ that both checkpoints have.
    ///
    /// * `by`: what columns stand for; `None` for roles if there are several, else parts.
    pub fn heatmap(&self, by: Option<By>) -> Heatmap {
        let in_both = || {
            self.tensors.iter().filter_map(|tensor| {
                let changed_elems = match &tensor.change {
                    Change::Same => 0,
                    Change::Changed(comparison) => comparison.changed,
                    Change::Added | Change::Removed | Change::Retyped => return None,
                };
                let elems = tensor.elems();
                (elems > 0).then_some((tensor, Cell { elems, changed_elems }))
            })
        };
        let roles: BTreeSet<u8> = in_both().map(|(tensor, _)| tensor.role as u8).collect();
        let by = by.unwrap_or(if roles.len() > 1 { By::Role } else { By::Part });
        let mut rows: BTreeMap<RowKey, (String, BTreeMap<String, Cell>)> = BTreeMap::new();
        let mut weights: BTreeMap<String, u64> = BTreeMap::new();
        for (tensor, cell) in in_both() {
            let place = place_of(&tensor.file, &tensor.name, tensor.dtype);
            let column = match by {
                By::Role => tensor.role.name().to_owned(),
                By::Part => place.part.clone(),
            };
            *weights.entry(column.clone()).or_default() += cell.elems;
            let (_, cells) = rows
                .entry(row_key(&place))
                .or_insert_with(|| (place.layer, BTreeMap::new()));
            cells.entry(column).or_default().add(cell);
        }
        let columns = match by {
            By::Role => {
                let order = Role::ALL.iter().cycle().skip(1).take(Role::ALL.len());
                let names = order.map(|role| role.name().to_owned());
                names.filter(|name| weights.contains_key(name)).collect()
            }
            By::Part => largest(&weights),
        };
        let place_of_column = |name: &str| {
            columns
                .iter()
                .position(|c| c == name)
                .unwrap_or(columns.len().saturating_sub(1))
        };
        let rows = rows.into_values().map(|(layer, by_column)| {
            let mut cells = vec![None; columns.len()];
            for (name, cell) in by_column {
                cells[place_of_column(&name)]
                    .get_or_insert_with(Cell::default)
                    .add(cell);
            }
            Row { layer, cells }
        });
        Heatmap {
            by,
            rows: rows.collect(),
            columns,
        }
    }
}

/// The parts with most elements, by name, what lies outside layers first; then one for all others, if there are more.
fn largest(weights: &BTreeMap<String, u64>) -> Vec<String> {
    let mut by_size: Vec<(&String, u64)> = weights.iter().map(|(name, &elems)| (name, elems)).collect();
    // The column without a name holds whole rows: it is never among the others.
    by_size.sort_by_key(|&(name, elems)| (!name.is_empty(), std::cmp::Reverse(elems)));
    let mut columns: Vec<String> = by_size
        .iter()
        .take(MAX_PARTS)
        .map(|(name, _)| (*name).clone())
        .collect();
    columns.sort();
    if by_size.len() > MAX_PARTS {
        columns.push(OTHER_PARTS.to_owned());
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::TensorDiff;
    use tpde_core::{Comparison, Dtype};

    fn tensor(name: &str, elems: u64, changed: Option<u64>) -> TensorDiff {
        TensorDiff {
            file: "state.safetensors".to_owned(),
            old_file: None,
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: vec![elems],
            role: crate::roles::role_of("state.safetensors", name, Dtype::F32),
            change: changed.map_or(Change::Same, |changed| {
                Change::Changed(Comparison {
                    changed,
                    ..Comparison::default()
                })
            }),
        }
    }

    fn of(tensors: Vec<TensorDiff>, by: Option<By>) -> Heatmap {
        let files = Vec::new();
        Diff { tensors, files }.heatmap(by)
    }

    fn shares(row: &Row) -> Vec<Option<f64>> {
        row.cells
            .iter()
            .map(|cell| cell.map(|cell| cell.changed_share()))
            .collect()
    }

    /// Promise: layers come in the order of their numbers, embeddings before and the rest behind them; a cell adds up what is in it, and
    /// what only one checkpoint has counts nowhere.
    #[test]
    fn layers_by_roles() {
        let mut gone = tensor("model.layers.5.q_proj.weight", 8, None);
        gone.change = Change::Removed;
        let map = of(
            vec![
                tensor("lm_head.weight", 10, Some(10)),
                tensor("model.embed_tokens.weight", 10, None),
                tensor("model.layers.10.q_proj.weight", 10, Some(1)),
                tensor("model.layers.2.q_proj.weight", 30, Some(3)),
                tensor("model.layers.2.up_proj.weight", 10, Some(1)),
                tensor("optimizer.exp_avg.model.layers.2.q_proj.weight", 30, Some(30)),
                gone,
            ],
            None,
        );
        assert_eq!(
            (map.by, map.columns.as_slice()),
            (By::Role, &["weight".to_owned(), "exp_avg".to_owned()][..])
        );
        let rows: Vec<&str> = map.rows.iter().map(|row| row.layer.as_str()).collect();
        assert_eq!(rows, ["embed_tokens", "layers.2", "layers.10", "lm_head"]);
        let all: Vec<_> = map.rows.iter().map(shares).collect();
        assert_eq!(
            all,
            [
                [Some(0.0), None],
                [Some(0.1), Some(1.0)],
                [Some(0.1), None],
                [Some(1.0), None]
            ]
        );
    }

    /// Promise: with one role alone the columns are parts of the layers; beyond eleven they share the last, and no element is lost.
    #[test]
    fn layers_by_parts() {
        let few = of(
            vec![
                tensor("model.norm.weight", 4, Some(1)),
                tensor("model.layers.0.mlp.up_proj.weight", 8, Some(2)),
                tensor("model.layers.0.mlp.down_proj.weight", 8, None),
            ],
            None,
        );
        assert_eq!(few.columns, ["", "down_proj", "up_proj"]);
        assert_eq!(shares(&few.rows[0]), [None, Some(0.0), Some(0.25)]);
        let many: Vec<TensorDiff> = (0..30)
            .map(|n| tensor(&format!("h.0.part_{n:02}.weight"), n + 1, Some(1)))
            .chain([tensor("norm.weight", 1, Some(1))])
            .collect();
        let map = of(many, Some(By::Part));
        assert_eq!(map.columns.len(), 12);
        assert_eq!(
            (map.columns[0].as_str(), map.columns[11].as_str()),
            ("", OTHER_PARTS)
        );
        let cells = map.rows.iter().flat_map(|row| row.cells.iter().flatten());
        assert_eq!(cells.map(|cell| cell.changed_elems).sum::<u64>(), 31);
        assert_eq!(of(Vec::new(), None).rows, []);
    }
}
