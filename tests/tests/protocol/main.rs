mod model;
mod packs;
mod rules;
mod state;
mod sweep;
mod writer;

use model::*;
use rules::*;
use stateright::{Checker, Model, HasDiscoveries};
use state::Checkpoint;
use writer::Task;

fn base() -> Protocol {
    Protocol { rules: Rules::ALL, writers: vec![], gcs: 1, forgotten: true, forgets: 0, crashes: 0, losses: 0 }
}

#[test]
fn try_it() {
    let cases: Vec<(&str, Protocol)> = vec![
        ("save", Protocol { writers: vec![Task::Save(Checkpoint::Next)], ..base() }),
        ("2save 1gc", Protocol { writers: vec![Task::Save(Checkpoint::Next), Task::Save(Checkpoint::Next)], ..base() }),
        ("2save 1gc c1", Protocol { writers: vec![Task::Save(Checkpoint::Next), Task::Save(Checkpoint::Next)], crashes: 1, ..base() }),
        ("2save 1gc c1 l1", Protocol { writers: vec![Task::Save(Checkpoint::Next), Task::Save(Checkpoint::Next)], crashes: 1, losses: 1, ..base() }),
        ("save undo 1gc c1 l1", Protocol { writers: vec![Task::Save(Checkpoint::Next), Task::Undo], crashes: 1, losses: 1, ..base() }),
        ("save tag 1gc c1 l1 f1", Protocol { writers: vec![Task::Save(Checkpoint::Next), Task::Tag], forgotten: false, forgets: 1, crashes: 1, losses: 1, ..base() }),
        ("save 2gc c1 l1", Protocol { writers: vec![Task::Save(Checkpoint::Next)], gcs: 2, crashes: 1, losses: 1, ..base() }),
        ("repack undo 2gc c1", Protocol { writers: vec![Task::Repack, Task::Save(Checkpoint::Same)], gcs: 2, forgotten: false, crashes: 1, losses: 0, ..base() }),
    ];
    for (name, p) in cases {
        let t = std::time::Instant::now();
        let c = p.clone().checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(5_000_000).threads(2).spawn_bfs().join();
        println!("{name}: {} unique {} total, depth {}, done {}, {:?}", c.unique_state_count(), c.state_count(), c.max_depth(), c.is_done(), t.elapsed());
        for (n, path) in c.discoveries() {
            println!("   {n}: {}", path.clone().into_actions().len());
            if n == WHOLE { for a in path.into_actions() { println!("      {a:?}"); } }
        }
    }
}
