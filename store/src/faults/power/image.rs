//! What may be left of a disk when the power goes.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A file, whatever its names are.
pub(super) type Inode = usize;

/// One step of a disk. Names are paths below the store's folder, which is the empty one.
#[derive(Debug, Clone)]
pub(super) enum Step {
    MakeFolder(String),
    RemoveFolder(String),
    /// A new and empty file.
    Create(String, Inode),
    Write(Inode, Bytes),
    SyncFile(Inode),
    Link(Inode, String),
    Rename(String, String),
    Remove(String),
    SyncFolder(String),
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(Inode),
}

#[derive(Debug, Clone, Default)]
struct Contents {
    bytes: Bytes,
    is_synced: bool,
}

/// A disk with all that may be left of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    /// Of each name what it surely stood for, and what it was made to stand for since then.
    names: BTreeMap<String, Vec<Option<Node>>>,
    files: BTreeMap<Inode, Contents>,
}

/// What is there after the power came back: bytes of files, or a folder.
pub(super) type Left = BTreeMap<String, Option<Bytes>>;

/// The folder that a name is in.
pub(super) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Image {
    /// Takes one more step.
    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::MakeFolder(name) => self.set(name, Some(Node::Folder)),
            Step::RemoveFolder(name) | Step::Remove(name) => self.set(name, None),
            Step::Create(name, inode) => {
                self.files.insert(*inode, Contents::default());
                self.set(name, Some(Node::File(*inode)));
            }
            Step::Write(inode, bytes) => {
                let written = Contents {
                    bytes: bytes.clone(),
                    is_synced: false,
                };
                self.files.insert(*inode, written);
            }
            Step::SyncFile(inode) => self.files.get_mut(inode).unwrap().is_synced = true,
            Step::Link(inode, name) => self.set(name, Some(Node::File(*inode))),
            Step::Rename(from, to) => {
                let node = *self.names[from].last().unwrap();
                self.set(from, None);
                self.set(to, node);
            }
            Step::SyncFolder(folder) => {
                let inside = self
                    .names
                    .iter_mut()
                    .filter(|(name, _)| folder_of(name) == folder);
                inside.for_each(|(_, nodes)| drop(nodes.drain(..nodes.len() - 1)));
            }
        }
    }

    fn set(&mut self, name: &str, node: Option<Node>) {
        self.names
            .entry(name.to_owned())
            .or_insert_with(|| vec![None])
            .push(node);
    }

    /// What is left when the power goes now.
    ///
    /// * `choose`: one of so many, from what is surely there to what was asked for last.
    pub(super) fn left(&self, choose: &mut dyn FnMut(usize) -> usize) -> Left {
        let mut left = Left::new();
        // A folder comes before what is in it.
        for (name, nodes) in &self.names {
            let node = nodes[choose(nodes.len())];
            let folder = folder_of(name);
            if !folder.is_empty() && left.get(folder) != Some(&None) {
                // Nobody can find it.
                continue;
            }
            match node {
                None => {}
                Some(Node::Folder) => drop(left.insert(name.clone(), None)),
                Some(Node::File(inode)) => {
                    let Contents { bytes, is_synced } = &self.files[&inode];
                    let bytes = match if *is_synced { 3 } else { choose(4) } {
                        0 => Bytes::new(),
                        1 => bytes.slice(..bytes.len() / 2),
                        2 => vec![0; bytes.len()].into(),
                        _ => bytes.clone(),
                    };
                    left.insert(name.clone(), Some(bytes));
                }
            }
        }
        left
    }
}
