//! The power goes: what was not synced may be there, be lacking, or be there in part.
//!
//! ```text
//! disk     a disk that remembers each step: what the backend for folders does, and what is asked of it beside that
//! image    what may be left of the steps so far
//! cut      a store's life, cut at every step; a writer that was killed, and the power after that
//! ```
//! A file system may keep more than this one. It is as careless as it may be: a sync of a file says nothing of its name, a sync of a folder
//! nothing of the folder's own name, and what was not synced is kept or dropped name by name.

mod cut;
mod disk;
mod image;
