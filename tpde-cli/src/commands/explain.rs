//! `tpde explain`: what every byte is for that a checkpoint added to the store.

use serde::Serialize;
use tpde_core::{Kind, Ledger, Mode};
use tpde_store::{Explanation, RoleShare};

use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session};
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::{count, counted, duration, percent, ratio, size};

/// Say what every byte is for that a checkpoint added to the store
///
/// Decodes what is new, and sets it beside what an ideal adaptive code would pay: an estimate that a code which knows more can beat.
/// "bits/elem" are stored bits for each element; "lanes" are where the parallel decoders start; "pieces" are what a restore reads;
/// the slot is the checkpoint's place in its run, and not part of the sum.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde explain [OPTIONS] <REF>",
    after_help = "\
Examples:
  tpde explain llama@600
  tpde explain llama@600 --json | jq '.roles[] | {role, stored_bytes, floor_bytes}'"
)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "REF", value_parser = reference)]
    checkpoint: String,
}

#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    checkpoint: Named,
    stored_bytes: u64,
    floor_bytes: f64,
    roles: Vec<Role>,
    files: Files,
    container: Container,
    restore: Restore,
}

#[derive(Serialize)]
struct Role {
    role: &'static str,
    tensors: u64,
    elems: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    floor_bytes: f64,
    tiles: Tiles,
    bytes: Purposes,
}

#[derive(Serialize)]
struct Tiles {
    same: u64,
    sparse: u64,
    dense: u64,
    fresh: u64,
    raw: u64,
}

/// Bytes by purpose; what streams hold is information, so it is not whole bytes.
#[derive(Serialize, Clone, Copy, Default)]
struct Purposes {
    positions: f64,
    magnitudes: f64,
    signs: f64,
    low_bits: f64,
    exponents: f64,
    mantissas: f64,
    uncompressed: f64,
    tables: f64,
    lanes: f64,
    directory: f64,
    digests: f64,
    headers: f64,
}

#[derive(Serialize)]
struct Files {
    blobs: u64,
    stored_bytes: u64,
}

#[derive(Serialize)]
struct Container {
    footer_id_bytes: u64,
    footer_bytes: u64,
    manifest_id_bytes: u64,
    manifest_bytes: u64,
    slot_bytes: u64,
}

#[derive(Serialize)]
struct Restore {
    pieces: u64,
    read_bytes: u64,
    deepest: u8,
    decoding_seconds: Option<f64>,
}

impl Purposes {
    fn of(ledger: &Ledger) -> Self {
        Self {
            positions: ledger.kind_bytes(Kind::Positions),
            magnitudes: ledger.kind_bytes(Kind::Magnitudes),
            signs: ledger.kind_bytes(Kind::Signs),
            low_bits: ledger.kind_bytes(Kind::LowBits),
            exponents: ledger.kind_bytes(Kind::Exponents),
            mantissas: ledger.kind_bytes(Kind::Mantissas),
            uncompressed: ledger.raw_bytes as f64,
            tables: ledger.table_bytes as f64,
            lanes: ledger.lane_bytes(),
            directory: ledger.directory_bytes as f64,
            digests: ledger.digest_bytes as f64,
            headers: ledger.header_bytes as f64,
        }
    }

    fn named(&self) -> [(&'static str, f64); 12] {
        [
            ("positions of changes", self.positions),
            ("magnitudes", self.magnitudes),
            ("signs", self.signs),
            ("low bits", self.low_bits),
            ("exponents", self.exponents),
            ("mantissas", self.mantissas),
            ("uncompressed tiles", self.uncompressed),
            ("probability tables", self.tables),
            ("lanes and restarts", self.lanes),
            ("tile directory", self.directory),
            ("digests", self.digests),
            ("frame headers", self.headers),
        ]
    }
}

impl Role {
    fn new(share: &RoleShare) -> Self {
        let tiles = |mode: Mode| share.ledger.tiles[mode as usize];
        Self {
            role: share.role.name(),
            tensors: share.tensors,
            elems: share.ledger.elems,
            raw_bytes: share.raw_bytes,
            stored_bytes: share.ledger.total_bytes,
            floor_bytes: share.floor_bytes,
            tiles: Tiles {
                same: tiles(Mode::Same),
                sparse: tiles(Mode::Sparse),
                dense: tiles(Mode::Dense),
                fresh: tiles(Mode::Fresh),
                raw: tiles(Mode::Raw),
            },
            bytes: Purposes::of(&share.ledger),
        }
    }
}

impl Explained {
    fn new(checkpoint: Named, explanation: &Explanation) -> Self {
        let (container, restore) = (explanation.container, explanation.restore);
        Self {
            checkpoint,
            // As save, log and show count: the slot holds this number, so it cannot be part of it.
            stored_bytes: explanation.total_bytes() - container.slot_bytes,
            floor_bytes: explanation.floor_bytes(),
            roles: explanation.roles.iter().map(Role::new).collect(),
            files: Files {
                blobs: explanation.blobs,
                stored_bytes: explanation.blob_bytes,
            },
            container: Container {
                footer_id_bytes: container.footer_id_bytes,
                footer_bytes: container.footer_bytes,
                manifest_id_bytes: container.manifest_id_bytes,
                manifest_bytes: container.manifest_bytes,
                slot_bytes: container.slot_bytes,
            },
            restore: Restore {
                pieces: restore.pieces,
                read_bytes: restore.read_bytes,
                deepest: restore.deepest,
                decoding_seconds: restore.decoding.map(|d| d.as_secs_f64()),
            },
        }
    }

    fn show_roles(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::Left("role"),
            Column::Right("tensors"),
            Column::Right("raw"),
            Column::Right("stored"),
            Column::Right("ratio"),
            Column::Right("bits/elem"),
            Column::Right("ideal"),
            Column::Right("x ideal"),
        ]);
        for role in &self.roles {
            table.row([
                Cell::toned(Tone::Name, role.role),
                count(role.tensors).into(),
                size(role.raw_bytes).into(),
                size(role.stored_bytes).into(),
                Cell::toned(Tone::Good, ratio(role.raw_bytes, role.stored_bytes)),
                format!("{:.3}", 8.0 * role.stored_bytes as f64 / role.elems.max(1) as f64).into(),
                size(whole(role.floor_bytes)).into(),
                format!("{:.3}", role.stored_bytes as f64 / role.floor_bytes.max(1.0)).into(),
            ]);
        }
        page.table(&table);
    }

    /// A row a purpose, a column a role.
    fn show_purposes(&self, page: &mut Page) {
        let column = |role: &str| self.roles.iter().find(|r| r.role == role);
        let roles = ["weight", "master", "exp_avg", "exp_avg_sq", "other"];
        let mut table = Table::new([
            Column::Left("bytes for"),
            Column::Right("weight"),
            Column::Right("master"),
            Column::Right("exp_avg"),
            Column::Right("exp_avg_sq"),
            Column::Right("other"),
            Column::Right("all"),
            Column::Right("share"),
        ]);
        let total = self.stored_bytes.max(1) as f64;
        let purposes: Vec<[(&'static str, f64); 12]> = self.roles.iter().map(|r| r.bytes.named()).collect();
        for (row, (name, _)) in Purposes::default().named().into_iter().enumerate() {
            let all: f64 = purposes.iter().map(|p| p[row].1).sum();
            if all == 0.0 {
                continue;
            }
            let [weight, master, first, second, other] = roles.map(|role| match column(role) {
                Some(role) => Cell::from(count(whole(role.bytes.named()[row].1))),
                None => Cell::toned(Tone::Dim, "-"),
            });
            let share = percent(all / total);
            table.row([
                name.into(),
                weight,
                master,
                first,
                second,
                other,
                count(whole(all)).into(),
                share.into(),
            ]);
        }
        let around = &self.container;
        for (name, bytes) in [
            ("file headers, other files", self.files.stored_bytes),
            ("pack footers: ids", around.footer_id_bytes),
            ("pack footers: rest", around.footer_bytes),
            ("manifest: ids", around.manifest_id_bytes),
            ("manifest: rest", around.manifest_bytes),
            ("all of it", self.stored_bytes),
        ] {
            let none = || Cell::toned(Tone::Dim, "");
            table.row([
                name.into(),
                none(),
                none(),
                none(),
                none(),
                none(),
                count(bytes).into(),
                percent(bytes as f64 / total).into(),
            ]);
        }
        page.table(&table);
    }
}

/// Whole bytes of information, for people.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded, positive number of bytes"
)]
fn whole(bytes: f64) -> u64 {
    bytes.max(0.0).round() as u64
}

impl Answer for Explained {
    fn show(&self, page: &mut Page) {
        page.line(self.checkpoint.title(page));
        let restore = &self.restore;
        let reads = format!(
            "{}, {}",
            counted(restore.pieces, "piece"),
            size(restore.read_bytes)
        );
        let depth = match restore.deepest {
            0 => "no tensor needs another".to_owned(),
            deepest => format!("at most {}", counted(deepest.into(), "link")),
        };
        let decoding = restore
            .decoding_seconds
            .map_or("nothing new to judge by".to_owned(), |seconds| {
                format!(
                    "about {} here",
                    duration(std::time::Duration::from_secs_f64(seconds))
                )
            });
        page.fields(&[
            (
                "stored",
                format!(
                    "{}, and {} for its place in the run",
                    size(self.stored_bytes),
                    size(self.container.slot_bytes)
                ),
            ),
            (
                "ideal",
                format!(
                    "{} for the tensors alone; an estimate, and no bound",
                    size(whole(self.floor_bytes))
                ),
            ),
            ("chain", depth),
            ("a restore reads", reads),
            ("and decodes in", decoding),
        ]);
        page.gap();
        if !self.roles.is_empty() {
            self.show_roles(page);
            page.gap();
        }
        self.show_purposes(page);
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let found = session.resolve(&store, &args.checkpoint)?;
    let explanation = store.explain(&found, &session.bars())?;
    session.answer(&Explained::new(Named::from(&found), &explanation))?;
    Ok(Exit::Done)
}
