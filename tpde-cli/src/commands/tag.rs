//! `tpde tag`: names for checkpoints.

use serde::Serialize;
use tpde_store::tags::{self, TagRecord, Target};
use tpde_store::{Store, TagName, history};

use crate::args::reference;
use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::{Named, Session, now_unix_ms, typed};
use crate::text::page::Page;
use crate::text::style::Tone;
use crate::text::table::{Cell, Column, Table};
use crate::text::units::utc;

/// Name a checkpoint, list the names, or remove one
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tpde tag [OPTIONS] [NAME] [REF]",
    after_help = "\
Examples:
  tpde tag best llama@600
  tpde tag best llama@700 --force
  tpde tag                       # all tags
  tpde tag best                  # what it stands for
  tpde tag --delete best         # the checkpoint stays"
)]
pub(crate) struct Args {
    /// The tag; without a REF, what it stands for is shown
    name: Option<TagName>,
    /// The checkpoint that it is to stand for
    #[arg(value_name = "REF", value_parser = reference, requires = "name")]
    checkpoint: Option<String>,
    /// Move the tag if it stands for another checkpoint
    #[arg(short, long, requires = "checkpoint")]
    force: bool,
    /// Remove the tag
    #[arg(short, long, requires = "name", conflicts_with_all = ["checkpoint", "force"])]
    delete: bool,
}

#[derive(Serialize)]
struct Tag {
    tag: String,
    #[serde(flatten)]
    checkpoint: Named,
    created_unix_ms: u64,
    replaced: bool,
}

#[derive(Serialize)]
struct All {
    tags: Vec<Tag>,
}

#[derive(Serialize)]
struct Set(Tag);

#[derive(Serialize)]
struct Removed {
    #[serde(flatten)]
    tag: Tag,
    deleted: bool,
}

impl Tag {
    /// Looks up whether the run holds another checkpoint of that step now.
    fn new(store: &Store, record: TagRecord) -> Result<Self, Failure> {
        let target = &record.target;
        let newest = history::newest(store.objects(), &target.run)?;
        let standing = match &newest {
            Some(newest) => history::latest_of_step(store.objects(), newest, target.step)?,
            None => None,
        };
        Ok(Self {
            replaced: standing.is_some_and(|s| s.seq != target.seq),
            tag: record.name.to_string(),
            checkpoint: Named {
                manifest: record.target.manifest.to_hex(),
                run: Some(record.target.run.to_string()),
                seq: Some(record.target.seq),
                step: Some(record.target.step),
            },
            created_unix_ms: record.created_unix_ms,
        })
    }

    /// Said of one that was replaced.
    fn remark(&self) -> &'static str {
        if self.replaced {
            "replaced: the step stands for another checkpoint"
        } else {
            ""
        }
    }
}

impl Answer for All {
    fn show(&self, page: &mut Page) {
        if self.tags.is_empty() {
            page.line("no tags yet");
            page.line(page.paint(Tone::Dim, "  tpde tag best llama@600"));
            return;
        }
        let mut table = Table::new([
            Column::Left("tag"),
            Column::Left("checkpoint"),
            Column::Left(""),
            Column::Left("set (UTC)"),
            Column::Left(""),
        ]);
        for tag in &self.tags {
            table.row([
                Cell::toned(Tone::Caution, tag.tag.clone()),
                Cell::toned(Tone::Strong, tag.checkpoint.label()),
                Cell::toned(Tone::Dim, tag.checkpoint.short()),
                utc(tag.created_unix_ms).into(),
                Cell::toned(Tone::Caution, tag.remark()),
            ]);
        }
        page.table(&table);
    }
}

impl Answer for Tag {
    fn show(&self, page: &mut Page) {
        page.line(format!(
            "{}  {}",
            page.paint(Tone::Caution, &self.tag),
            self.checkpoint.title(page)
        ));
        if self.replaced {
            page.line(page.paint(Tone::Caution, &format!("  {}", self.remark())));
        }
    }
}

impl Answer for Set {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        self.0.show(page);
    }
}

impl Answer for Removed {
    fn is_notice(&self) -> bool {
        true
    }

    fn show(&self, page: &mut Page) {
        page.line(format!(
            "{} tag {}, which stood for {}",
            page.paint(Tone::Good, "removed"),
            page.paint(Tone::Caution, &self.tag.tag),
            self.tag.checkpoint.title(page)
        ));
    }
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    match (&args.name, &args.checkpoint) {
        (Some(name), Some(checkpoint)) => {
            let record = set(&store, session, name, checkpoint, args.force)?;
            session.answer(&Set(Tag::new(&store, record)?))?;
        }
        (Some(name), None) if args.delete => {
            store.access().require_write()?;
            let record = tags::remove(store.objects(), name, now_unix_ms())?;
            session.answer(&Removed {
                tag: Tag::new(&store, record)?,
                deleted: true,
            })?;
        }
        (Some(name), None) => {
            let record = tags::get(store.objects(), name)?.ok_or_else(|| Failure::NotFound {
                message: format!("tag {name} was not found"),
                hint: format!("`tpde tag` lists the tags there are; `tpde tag {name} REF` makes it"),
            })?;
            session.answer(&Tag::new(&store, record)?)?;
        }
        (None, _) => {
            let tags = tags::list(store.objects())?;
            let tags = tags.into_iter().map(|record| Tag::new(&store, record));
            session.answer(&All {
                tags: tags.collect::<Result<_, _>>()?,
            })?;
        }
    }
    Ok(Exit::Done)
}

fn set(
    store: &Store,
    session: &Session,
    name: &TagName,
    checkpoint: &str,
    force: bool,
) -> Result<TagRecord, Failure> {
    store.access().require_write()?;
    tags::check_name(store.objects(), name).map_err(typed)?;
    let found = session.resolve(store, checkpoint)?;
    let place = found.place.ok_or_else(|| Failure::Usage {
        message: format!("checkpoint {checkpoint:?} is stored, and belongs to no run"),
        hint: "Name a checkpoint that `tpde log` lists".to_owned(),
    })?;
    let target = Target {
        manifest: found.manifest,
        run: place.run,
        seq: place.seq,
        step: place.step,
    };
    Ok(store.tag(name, &target, force, now_unix_ms())?)
}
