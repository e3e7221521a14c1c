//! `tpde diff`: how two checkpoints differ.

use serde::Serialize;
use tpde_store::heatmap::{By, Cell as HeatCell};
use tpde_store::{Change, Diff, FileChange, FileDiff, Heatmap, TensorDiff};

use super::{FAR, is_far, shape};
use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::heat::{HeatRow, LEGEND};
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, percent, scientific, size};

/// Tensors that are listed without `--all`.
const MOST_MOVED: usize = 20;

/// Compare two checkpoints, tensor by tensor and file by file
///
/// "changed" is the share of elements whose bits differ, "max ulp" the largest distance in units in the last place, and
/// "relative L2" the length of the difference over the length of the old tensor.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde diff [OPTIONS] <A> <B>",
    after_help = "\
Examples:
  tpde diff llama@500 llama@600
  tpde diff llama~1 llama --all
  tpde diff llama@500 llama@600 --heatmap          # where in the model
  tpde diff llama@500 llama@600 --heatmap=parts    # q_proj, up_proj, … instead of weights, masters, moments"
)]
pub(crate) struct Args {
    /// The older checkpoint
    #[arg(value_name = "A", value_parser = reference)]
    old: String,
    /// The newer checkpoint
    #[arg(value_name = "B", value_parser = reference)]
    new: String,
    /// List every tensor and file, in order, instead of those that moved most
    #[arg(long)]
    all: bool,
    /// Show the share of changed elements by layer, and by roles or parts of a layer: roles, if there are several
    #[arg(long, value_name = "COLUMNS", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    heatmap: Option<Columns>,
}

/// What the columns of a heatmap stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Columns {
    /// Roles if there are several, else parts
    Auto,
    /// Weights, masters, moments
    Roles,
    /// Parts of a layer, such as q_proj
    Parts,
}

impl Columns {
    fn by(self) -> Option<By> {
        match self {
            Self::Auto => None,
            Self::Roles => Some(By::Role),
            Self::Parts => Some(By::Part),
        }
    }
}

#[derive(Serialize)]
struct Compared {
    old: Named,
    new: Named,
    elems: u64,
    changed_elems: u64,
    changed_share: f64,
    tensors: Vec<Tensor>,
    files: Vec<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heatmap: Option<Heat>,
    #[serde(skip)]
    all: bool,
}

#[derive(Serialize)]
struct Heat {
    by: &'static str,
    columns: Vec<String>,
    rows: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    layer: String,
    cells: Vec<Option<Changed>>,
}

#[derive(Serialize)]
struct Changed {
    elems: u64,
    changed_elems: u64,
    changed_share: f64,
}

impl From<HeatCell> for Changed {
    fn from(cell: HeatCell) -> Self {
        Self {
            elems: cell.elems,
            changed_elems: cell.changed_elems,
            changed_share: cell.changed_share(),
        }
    }
}

impl From<Heatmap> for Heat {
    fn from(map: Heatmap) -> Self {
        let row = |row: tpde_store::heatmap::Row| Layer {
            layer: row.layer,
            cells: row
                .cells
                .into_iter()
                .map(|cell| cell.map(Changed::from))
                .collect(),
        };
        Self {
            by: match map.by {
                By::Role => "role",
                By::Part => "part",
            },
            columns: map.columns,
            rows: map.rows.into_iter().map(row).collect(),
        }
    }
}

#[derive(Serialize)]
struct Tensor {
    file: String,
    old_file: Option<String>,
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    role: &'static str,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Distance>,
    #[serde(skip)]
    elems: u64,
}

#[derive(Serialize)]
struct Distance {
    changed_elems: u64,
    changed_share: f64,
    max_ulp: u64,
    /// `null` in JSON if it is infinite: the old tensor is all zeros.
    relative_l2: f64,
}

#[derive(Serialize)]
struct File {
    path: String,
    change: &'static str,
    old_bytes: u64,
    new_bytes: u64,
}

impl Tensor {
    /// Whether its largest distance wants explaining.
    fn is_far(&self) -> bool {
        let distance = self.comparison.as_ref().map_or(0, |c| c.max_ulp);
        is_far(self.dtype, distance)
    }
}

impl From<&TensorDiff> for Tensor {
    fn from(diff: &TensorDiff) -> Self {
        let (change, comparison) = match &diff.change {
            Change::Same => ("same", None),
            Change::Added => ("added", None),
            Change::Removed => ("removed", None),
            Change::Retyped => ("retyped", None),
            Change::Changed(c) => (
                "changed",
                Some(Distance {
                    changed_elems: c.changed,
                    changed_share: c.changed_share(),
                    max_ulp: c.max_ulp,
                    relative_l2: c.relative_l2(),
                }),
            ),
        };
        Self {
            file: diff.file.clone(),
            old_file: diff.old_file.clone(),
            name: diff.name.clone(),
            dtype: diff.dtype.name(),
            shape: diff.shape.clone(),
            role: diff.role.name(),
            change,
            comparison,
            elems: diff.elems(),
        }
    }
}

impl From<&FileDiff> for File {
    fn from(diff: &FileDiff) -> Self {
        Self {
            path: diff.path.clone(),
            change: match diff.change {
                FileChange::Same => "same",
                FileChange::Changed => "changed",
                FileChange::Added => "added",
                FileChange::Removed => "removed",
            },
            old_bytes: diff.old_bytes,
            new_bytes: diff.new_bytes,
        }
    }
}

impl Compared {
    fn new(old: Named, new: Named, diff: &Diff, args: &Args) -> Self {
        let tensors: Vec<Tensor> = diff.tensors.iter().map(Tensor::from).collect();
        let in_both = tensors.iter().filter(|t| matches!(t.change, "same" | "changed"));
        let elems = in_both.map(|t| t.elems).sum();
        let changed_elems = tensors
            .iter()
            .filter_map(|t| t.comparison.as_ref())
            .map(|c| c.changed_elems)
            .sum();
        Self {
            old,
            new,
            elems,
            changed_elems,
            changed_share: if elems == 0 {
                0.0
            } else {
                changed_elems as f64 / elems as f64
            },
            tensors,
            files: diff.files.iter().map(File::from).collect(),
            heatmap: args.heatmap.map(|columns| diff.heatmap(columns.by()).into()),
            all: args.all,
        }
    }

    /// What is to be listed: everything in order, or what differs, the farthest first.
    fn listed(&self) -> Vec<&Tensor> {
        let mut listed: Vec<&Tensor> = self
            .tensors
            .iter()
            .filter(|t| self.all || t.change != "same")
            .collect();
        if !self.all {
            let distance = |t: &Tensor| t.comparison.as_ref().map_or(f64::INFINITY, |c| c.relative_l2);
            listed.sort_by(|a, b| distance(b).total_cmp(&distance(a)));
        }
        listed
    }

    fn show_tensors(&self, page: &mut Page) {
        let listed = self.listed();
        let shown = if self.all {
            listed.len()
        } else {
            listed.len().min(MOST_MOVED)
        };
        if shown == 0 {
            return;
        }
        page.gap();
        let mut table = Table::new([
            Column::Right("changed"),
            Column::Right("max ulp"),
            Column::Right("relative L2"),
            Column::Left("type"),
            Column::Left("tensor"),
        ]);
        let several = self.tensors.iter().any(|t| t.file != self.tensors[0].file);
        for tensor in &listed[..shown] {
            let [changed, max_ulp, relative_l2] = match &tensor.comparison {
                Some(c) => [
                    percent(c.changed_share).into(),
                    count(c.max_ulp).into(),
                    scientific(c.relative_l2).into(),
                ],
                None => [
                    Cell::toned(tone_of(tensor.change), tensor.change),
                    "".into(),
                    "".into(),
                ],
            };
            let name = plain(&tensor.name);
            table.row([
                changed,
                max_ulp,
                relative_l2,
                Cell::toned(Tone::Dim, format!("{} {}", tensor.dtype, shape(&tensor.shape))),
                Cell::toned(
                    Tone::Name,
                    if several {
                        format!("{}: {name}", plain(&tensor.file))
                    } else {
                        name.into_owned()
                    },
                ),
            ]);
        }
        page.table(&table);
        if listed[..shown].iter().any(|t| t.is_far()) {
            page.line(page.paint(Tone::Dim, FAR));
        }
        if shown < listed.len() {
            let more = format!(
                "  {} more; --all lists them",
                count((listed.len() - shown) as u64)
            );
            page.line(page.paint(Tone::Dim, &more));
        }
    }

    fn show_heatmap(&self, heat: &Heat, page: &mut Page) {
        if heat.rows.is_empty() {
            return;
        }
        page.gap();
        // What lies outside all layers has no part: its row says what it is.
        let headings: Vec<String> = heat.columns.iter().map(|name| plain(name).into_owned()).collect();
        let names: Vec<_> = heat.rows.iter().map(|row| plain(&row.layer)).collect();
        let rows: Vec<HeatRow<'_>> = heat
            .rows
            .iter()
            .zip(&names)
            .map(|(row, name)| HeatRow {
                name,
                shares: row
                    .cells
                    .iter()
                    .map(|c| c.as_ref().map(|c| c.changed_share))
                    .collect(),
            })
            .collect();
        page.heatmap(&headings, &rows);
        page.line(page.paint(Tone::Dim, &format!("  {LEGEND}")));
    }

    fn show_files(&self, page: &mut Page) {
        let listed: Vec<&File> = self
            .files
            .iter()
            .filter(|f| self.all || f.change != "same")
            .collect();
        if listed.is_empty() {
            return;
        }
        page.gap();
        let mut table = Table::new([
            Column::Left("change"),
            Column::Right("size"),
            Column::Left("file"),
        ]);
        for file in listed {
            let sizes = match file.change {
                "added" => size(file.new_bytes),
                "removed" => size(file.old_bytes),
                _ if file.old_bytes == file.new_bytes => size(file.new_bytes),
                _ => format!("{} → {}", size(file.old_bytes), size(file.new_bytes)),
            };
            table.row([
                Cell::toned(tone_of(file.change), file.change),
                sizes.into(),
                Cell::toned(Tone::Name, plain(&file.path)),
            ]);
        }
        page.table(&table);
    }
}

fn tone_of(change: &str) -> Tone {
    match change {
        "same" => Tone::Dim,
        "added" => Tone::Good,
        "removed" => Tone::Bad,
        _ => Tone::Caution,
    }
}

/// `3 changed, 1 added, 2 same`, without the zeros.
fn tally<'c>(changes: impl Iterator<Item = &'c str> + Clone) -> String {
    let parts: Vec<String> = ["changed", "retyped", "added", "removed", "same"]
        .into_iter()
        .filter_map(|kind| match changes.clone().filter(|c| *c == kind).count() {
            0 => None,
            n => Some(format!("{} {kind}", count(n as u64))),
        })
        .collect();
    parts.join(", ")
}

impl Answer for Compared {
    fn show(&self, page: &mut Page) {
        page.line(format!("{}  →  {}", self.old.title(page), self.new.title(page)));
        let is_same = |change: &str| change == "same";
        if self.tensors.iter().all(|t| is_same(t.change)) && self.files.iter().all(|f| is_same(f.change)) {
            let (tensors, files) = (self.tensors.len() as u64, self.files.len() as u64);
            page.line(format!(
                "  {}: {}, {}",
                page.paint(Tone::Good, "identical"),
                counted(tensors, "tensor"),
                counted(files, "file")
            ));
            if !self.all {
                return;
            }
        } else {
            let mut fields = Vec::new();
            if !self.tensors.is_empty() {
                fields.push(("tensors", tally(self.tensors.iter().map(|t| t.change))));
                let elements = match self.elems {
                    0 => "no tensor of one name, type and shape is in both".to_owned(),
                    elems => format!("{} of {} changed", percent(self.changed_share), count(elems)),
                };
                fields.push(("elements", elements));
            }
            fields.push(("files", tally(self.files.iter().map(|f| f.change))));
            page.fields(&fields);
        }
        if let Some(heat) = &self.heatmap {
            self.show_heatmap(heat, page);
            if !self.all {
                return;
            }
        }
        self.show_tensors(page);
        self.show_files(page);
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let old = session.resolve(&store, &args.old)?;
    let new = session.resolve(&store, &args.new)?;
    let bars = session.bars();
    let diff = store.diff(old.manifest, new.manifest, &bars)?;
    drop(bars);
    session.answer(&Compared::new(Named::from(&old), Named::from(&new), &diff, args))?;
    Ok(Exit::Done)
}
