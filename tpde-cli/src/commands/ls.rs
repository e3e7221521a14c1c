//! `tpde ls`: what a checkpoint holds.

use serde::Serialize;
use tpde_store::Manifest;
use tpde_store::manifest::FileContent;

use super::{ARCHIVED, shape};
use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, size};

/// List the files of a checkpoint, or its tensors
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde ls [OPTIONS] <REF>",
    after_help = "\
Examples:
  tpde ls llama@600
  tpde ls llama@600 --tensors"
)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "REF", value_parser = reference)]
    checkpoint: String,
    /// List tensors instead of files
    #[arg(long)]
    tensors: bool,
}

#[derive(Serialize)]
struct Files {
    #[serde(flatten)]
    checkpoint: Named,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    kind: &'static str,
    mode: u32,
    bytes: u64,
    tensors: u64,
}

#[derive(Serialize)]
struct Tensors {
    #[serde(flatten)]
    checkpoint: Named,
    archived_weights: bool,
    tensors: Vec<Tensor>,
}

#[derive(Serialize)]
struct Tensor {
    file: String,
    name: String,
    role: &'static str,
    dtype: &'static str,
    shape: Vec<u64>,
    bytes: u64,
    id: String,
    depth: u8,
    stored_bytes: u64,
}

impl Answer for Files {
    fn show(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::Right("size"),
            Column::Right("tensors"),
            Column::Left("file"),
        ]);
        for file in &self.files {
            let is_directory = file.kind == "directory";
            table.row([
                if is_directory {
                    "-".into()
                } else {
                    size(file.bytes).into()
                },
                match file.tensors {
                    0 => "-".into(),
                    n => count(n).into(),
                },
                Cell::toned(
                    Tone::Name,
                    format!("{}{}", plain(&file.path), if is_directory { "/" } else { "" }),
                ),
            ]);
        }
        page.table(&table);
    }
}

impl Answer for Tensors {
    fn show(&self, page: &mut Page) {
        if self.tensors.is_empty() {
            page.line("no tensors; `tpde ls` without --tensors lists the files");
            return;
        }
        let mut table = Table::new([
            Column::Left("role"),
            Column::Left("type"),
            Column::Left("shape"),
            Column::Right("size"),
            Column::Right("stored"),
            Column::Right("depth"),
            Column::Left("tensor"),
        ]);
        let mut file = None;
        let several = self.tensors.iter().any(|t| t.file != self.tensors[0].file);
        for tensor in &self.tensors {
            if several && file != Some(&tensor.file) {
                if file.is_some() {
                    page.table(&table);
                    table.clear();
                    page.gap();
                }
                page.line(page.paint(Tone::Strong, &plain(&tensor.file)));
            }
            file = Some(&tensor.file);
            table.row([
                tensor.role.into(),
                tensor.dtype.into(),
                shape(&tensor.shape).into(),
                size(tensor.bytes).into(),
                match tensor.stored_bytes {
                    0 => Cell::toned(Tone::Dim, "shared"),
                    stored => size(stored).into(),
                },
                match tensor.depth {
                    0 => Cell::toned(Tone::Dim, "alone"),
                    depth => depth.to_string().into(),
                },
                Cell::toned(Tone::Name, plain(&tensor.name)),
            ]);
        }
        page.table(&table);
        if self.archived_weights {
            page.gap();
            page.line(ARCHIVED);
        }
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let found = session.resolve(&store, &args.checkpoint)?;
    let manifest = store.named_manifest(found.manifest)?;
    let checkpoint = Named::from(&found);
    if args.tensors {
        let tensors = tensors(&manifest);
        session.answer(&Tensors {
            checkpoint,
            archived_weights: manifest.archived_weights,
            tensors,
        })?;
    } else {
        let files = files(&manifest);
        session.answer(&Files { checkpoint, files })?;
    }
    Ok(Exit::Done)
}

fn files(manifest: &Manifest) -> Vec<File> {
    let file = |file: &tpde_store::manifest::FileRecord| {
        let kind = match &file.content {
            FileContent::Directory => "directory",
            FileContent::Opaque { .. } => "opaque",
            FileContent::Safetensors { .. } => "safetensors",
            FileContent::Torch { .. } => "torch",
        };
        File {
            path: file.path.clone(),
            kind,
            mode: file.mode,
            bytes: manifest.file_len_bytes(file),
            tensors: file.content.tensors().len() as u64,
        }
    };
    manifest.files.iter().map(file).collect()
}

fn tensors(manifest: &Manifest) -> Vec<Tensor> {
    manifest
        .named_tensors()
        .map(|(file, named, record)| Tensor {
            file: file.to_owned(),
            name: named.name.clone(),
            role: named.role.name(),
            dtype: record.dtype.name(),
            shape: named.shape.clone(),
            bytes: record.len_bytes,
            id: record.id.to_hex(),
            depth: record.rank,
            stored_bytes: record.stored_bytes,
        })
        .collect()
}
