//! `tpde doctor`: is everything well, and what to type if not.

use serde::Serialize;
use tpde_store::{Finding, Health};

use crate::failure::{Exit, Failure};
use crate::screen::Answer;
use crate::session::Session;
use crate::text::escape::plain;
use crate::text::page::Page;
use crate::text::style::Tone;

/// Look a store over: backend, clock, writers, contents, and what to type
///
/// Tries what a store needs of its backend, compares clocks, and looks for what was cut short, lost or is needless. Reads no contents: `tpde
/// verify` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tpde doctor
  tpde doctor --store s3://bucket/run")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Examined {
    health: &'static str,
    findings: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    what: &'static str,
    health: &'static str,
    detail: String,
    advice: Option<String>,
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::Notice => "notice",
        Health::Bad => "bad",
    }
}

impl From<Finding> for Line {
    fn from(finding: Finding) -> Self {
        Self {
            what: finding.what,
            health: word(finding.health),
            detail: finding.detail,
            advice: finding.advice,
        }
    }
}

impl Answer for Examined {
    fn show(&self, page: &mut Page) {
        for line in &self.findings {
            let sign = match line.health {
                "good" => page.paint(Tone::Good, "✓"),
                "notice" => page.paint(Tone::Caution, "!"),
                _ => page.paint(Tone::Bad, "✗"),
            };
            page.line(format!("{sign} {:<12} {}", line.what, plain(&line.detail)));
            if let Some(advice) = &line.advice {
                page.line(format!("{:15}{}", "", page.paint(Tone::Strong, advice)));
            }
        }
    }
}

pub(crate) fn run(_: &Args, session: &Session) -> Result<Exit, Failure> {
    let store = session.store()?;
    let findings = store.doctor()?;
    let worst = findings.iter().map(|f| f.health).max().unwrap_or(Health::Good);
    session.answer(&Examined {
        health: word(worst),
        findings: findings.into_iter().map(Line::from).collect(),
    })?;
    Ok(if worst == Health::Bad {
        Exit::Corrupt
    } else {
        Exit::Done
    })
}
