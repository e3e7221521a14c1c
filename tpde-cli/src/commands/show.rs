//! `tpde show`: one checkpoint, and where its bytes went.

use std::collections::BTreeMap;

use serde::Serialize;
use tpde_store::manifest::{FileContent, NamedTensor, TensorRecord};
use tpde_store::reference::Place;
use tpde_store::{Manifest, Store, StoreError, history};

use super::{ARCHIVED, FAR, by_name, is_far, metric_list, parent_of, shape};
use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, percent, ratio, ratio_of, size, utc};

/// What a line about where a checkpoint comes from is called.
const ENVIRONMENT: &str = "from";

/// Tensors that are listed.
const LARGEST: usize = 10;

/// Show one checkpoint: its parent, its sizes, and the tensors that cost most
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde show [OPTIONS] <REF>",
    after_help = "\
Examples:
  tpde show llama@600
  tpde show best --json | jq .max_depth"
)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "REF", value_parser = reference)]
    checkpoint: String,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    checkpoint: Named,
    created_unix_ms: u64,
    writer: String,
    parent: Option<Named>,
    raw_bytes: u64,
    stored_bytes: Option<u64>,
    ratio: Option<f64>,
    files: u64,
    tensors: u64,
    new_tensors: u64,
    max_depth: u8,
    depths: Vec<u64>,
    restore: Option<Restore>,
    fingerprint: String,
    archived_weights: bool,
    metrics: BTreeMap<String, f64>,
    note: String,
    environment: BTreeMap<String, String>,
    largest: Vec<Contribution>,
}

/// What a restore reads; `None` in its place if something that it reads is missing.
#[derive(Serialize)]
struct Restore {
    pieces: u64,
    packs: u64,
    read_bytes: u64,
}

#[derive(Serialize)]
struct Contribution {
    file: String,
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    raw_bytes: u64,
    stored_bytes: u64,
    depth: u8,
    changed_share: Option<f64>,
    max_ulp: Option<u64>,
    #[serde(skip)]
    is_given: bool,
}

impl Contribution {
    fn new(file: &str, named: &NamedTensor, record: &TensorRecord) -> Self {
        let elems = record.len_bytes / record.dtype.word_bytes() as u64;
        // What has no base has nothing to have changed from.
        let is_delta = record.has_base;
        Self {
            file: file.to_owned(),
            name: named.name.clone(),
            dtype: record.dtype.name(),
            shape: named.shape.clone(),
            raw_bytes: record.len_bytes,
            stored_bytes: record.stored_bytes,
            depth: record.rank,
            changed_share: (is_delta && elems > 0).then(|| record.changed_elems as f64 / elems as f64),
            max_ulp: is_delta.then_some(record.max_ulp),
            is_given: record.is_given,
        }
    }
}

impl Shown {
    /// `3 tensors with none, 5 with 1, 2 with 3`.
    fn tensors_by_depth(&self) -> String {
        let mut parts = Vec::new();
        for (depth, &tensors) in self.depths.iter().enumerate().filter(|(_, n)| **n > 0) {
            let links = match depth {
                0 => "none".to_owned(),
                n => n.to_string(),
            };
            parts.push(match parts.is_empty() {
                true => format!("{} with {links}", counted(tensors, "tensor")),
                false => format!("{} with {links}", count(tensors)),
            });
        }
        parts.join(", ")
    }
}

impl Answer for Shown {
    fn show(&self, page: &mut Page) {
        page.line(self.checkpoint.title(page));
        let parent = match &self.parent {
            Some(parent) => format!("{} ({})", plain(&parent.label()), parent.short()),
            None => "none".to_owned(),
        };
        let stored = match self.stored_bytes {
            Some(stored) => format!("{} ({})", size(stored), ratio(self.raw_bytes, stored)),
            None => "not committed to a run".to_owned(),
        };
        let depth = match self.max_depth {
            0 => "no tensor needs another".to_owned(),
            depth => format!(
                "at most {}; {}",
                counted(depth.into(), "link"),
                self.tensors_by_depth()
            ),
        };
        let reads = match &self.restore {
            Some(restore) => format!(
                "{} in {} of {}",
                size(restore.read_bytes),
                counted(restore.pieces, "piece"),
                counted(restore.packs, "pack")
            ),
            None => format!(
                "something that is missing: `tpde verify {}` tells",
                self.checkpoint.label()
            ),
        };
        let mut fields = vec![
            ("manifest", self.checkpoint.manifest.clone()),
            ("parent", parent),
            (
                "saved",
                format!("{} UTC by {}", utc(self.created_unix_ms), plain(&self.writer)),
            ),
            (
                "files",
                format!("{}, {}", count(self.files), size(self.raw_bytes)),
            ),
            (
                "tensors",
                format!("{}, {} new", count(self.tensors), count(self.new_tensors)),
            ),
            ("stored", stored),
            ("chain", depth),
            ("a restore reads", reads),
        ];
        if !self.metrics.is_empty() {
            fields.push(("metrics", plain(&metric_list(&self.metrics)).into_owned()));
        }
        if !self.note.is_empty() {
            fields.push(("note", plain(&self.note).into_owned()));
        }
        for (name, value) in &self.environment {
            fields.push((ENVIRONMENT, format!("{} {}", plain(name), plain(value))));
        }
        page.fields(&fields);
        if self.archived_weights {
            page.gap();
            page.line(ARCHIVED);
        }
        if self.largest.is_empty() {
            return;
        }
        page.gap();
        page.line("Tensors that cost most");
        let mut table = Table::new([
            Column::Right("stored"),
            Column::Right("ratio"),
            Column::Right("depth"),
            Column::Right("changed"),
            Column::Right("max ulp"),
            Column::Left("type"),
            Column::Left("tensor"),
        ]);
        for tensor in &self.largest {
            table.row([
                size(tensor.stored_bytes).into(),
                Cell::toned(Tone::Good, ratio(tensor.raw_bytes, tensor.stored_bytes)),
                match tensor.depth {
                    0 => "alone".into(),
                    depth => depth.to_string().into(),
                },
                match (tensor.changed_share, tensor.is_given) {
                    (Some(share), _) => percent(share).into(),
                    (None, true) => Cell::toned(Tone::Dim, "given"),
                    (None, false) => "-".into(),
                },
                tensor.max_ulp.map_or("-".to_owned(), count).into(),
                Cell::toned(Tone::Dim, format!("{} {}", tensor.dtype, shape(&tensor.shape))),
                Cell::toned(Tone::Name, plain(&tensor.name)),
            ]);
        }
        page.table(&table);
        if self
            .largest
            .iter()
            .any(|t| t.changed_share.is_none() && t.is_given)
        {
            let line = "  given: coded from another tensor of its step (a master from its weight), not from an earlier one";
            page.line(page.paint(Tone::Dim, line));
        }
        if self
            .largest
            .iter()
            .any(|t| is_far(t.dtype, t.max_ulp.unwrap_or(0)))
        {
            page.line(page.paint(Tone::Dim, FAR));
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let found = session.resolve(&store, &args.checkpoint)?;
    let manifest = store.named_manifest(found.manifest)?;
    let raw_bytes = manifest.raw_bytes();
    let stored_bytes = found.place.as_ref().map(|p| stored_by(&store, p)).transpose()?;
    let tensors: Vec<_> = manifest.named_tensors().collect();
    let mut costly: Vec<_> = tensors.iter().filter(|(_, _, r)| r.stored_bytes > 0).collect();
    costly.sort_by_key(|(_, named, record)| (std::cmp::Reverse(record.stored_bytes), named.tensor));
    // A content that two names share was stored once.
    costly.dedup_by_key(|(_, named, _)| named.tensor);
    session.answer(&Shown {
        checkpoint: Named::from(&found),
        created_unix_ms: manifest.created_unix_ms,
        writer: manifest.writer.clone(),
        parent: parent_of(&store, &manifest)?,
        raw_bytes,
        stored_bytes,
        ratio: stored_bytes.and_then(|stored| ratio_of(raw_bytes, stored)),
        files: manifest
            .files
            .iter()
            .filter(|f| f.content != FileContent::Directory)
            .count() as u64,
        tensors: tensors.len() as u64,
        new_tensors: manifest.tensors.iter().filter(|t| t.stored_bytes > 0).count() as u64,
        archived_weights: manifest.archived_weights,
        metrics: by_name(&manifest.metrics),
        note: manifest.note.clone(),
        environment: manifest.environment.clone(),
        max_depth: manifest.tensors.iter().map(|t| t.rank).max().unwrap_or(0),
        depths: depths(&manifest),
        restore: restore_cost(&store, &manifest)?,
        fingerprint: manifest.fingerprint().to_hex(),
        largest: costly
            .iter()
            .take(LARGEST)
            .map(|(file, named, record)| Contribution::new(file, named, record))
            .collect(),
    })?;
    Ok(Exit::Done)
}

/// How many tensors have no link below them, how many one, and so on.
fn depths(manifest: &Manifest) -> Vec<u64> {
    let mut depths = Vec::new();
    for record in &manifest.tensors {
        let depth = usize::from(record.rank);
        if depths.len() <= depth {
            depths.resize(depth + 1, 0);
        }
        depths[depth] += 1;
    }
    depths
}

/// What a restore of the checkpoint reads; `None` if some of it is missing.
fn restore_cost(store: &Store, manifest: &Manifest) -> Result<Option<Restore>, Failure> {
    match store.restore_cost(manifest) {
        Ok(cost) => Ok(Some(Restore {
            pieces: cost.pieces,
            packs: cost.packs,
            read_bytes: cost.read_bytes,
        })),
        Err(StoreError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that the commit at `place` added.
fn stored_by(store: &Store, place: &Place) -> Result<u64, Failure> {
    let newest = history::newest_of(store.objects(), &place.run)?;
    let commit = history::record_at(store.objects(), &newest, place.seq)?;
    Ok(commit.totals.stored_bytes)
}
