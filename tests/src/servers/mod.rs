//! Real servers on this machine: started on ports of their own, ended by their process ids.

mod moto;
mod s3rver;
mod seaweed;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tpde_store::Objects;
use tpde_store::objects::Environment;

pub use moto::moto;
pub use s3rver::s3rver;
pub use seaweed::{Seaweed, seaweedfs};

/// Longest that a server may take to come up on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The bucket that every server has.
pub const BUCKET: &str = "bucket";

/// A place to put stores: an endpoint, and a key to its bucket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As in `http://127.0.0.1:9000`.
    pub url: String,
    /// Id and secret of the key.
    pub key: (String, String),
}

impl Endpoint {
    /// An endpoint on this machine, with a key that the servers here accept.
    pub fn local(port: u16, key: (&str, &str)) -> Self {
        Self {
            url: format!("http://127.0.0.1:{port}"),
            key: (key.0.to_owned(), key.1.to_owned()),
        }
    }

    /// Opens `location` there.
    pub fn open(&self, location: &str) -> Objects {
        Objects::open_with(location, &self.environment()).unwrap()
    }

    /// What a process needs to know to open a store there.
    pub fn variables(&self) -> [(&str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.url),
            ("AWS_ACCESS_KEY_ID", &self.key.0),
            ("AWS_SECRET_ACCESS_KEY", &self.key.1),
            ("HOME", "/nonexistent"),
        ]
    }

    fn environment(&self) -> Environment {
        self.variables().into_iter().collect()
    }

    /// Opens the part `part` of the bucket, over a line that carries no more than `rate`.
    pub fn part_at_rate(&self, part: &str, rate: &str) -> Objects {
        let location = format!("s3://{BUCKET}/{part}");
        Objects::open_at_rate(&location, &self.environment(), Some(rate.parse().unwrap())).unwrap()
    }

    /// Opens the part `part` of the bucket.
    pub fn part(&self, part: &str) -> Objects {
        self.open(&format!("s3://{BUCKET}/{part}"))
    }

    /// The port of this machine.
    pub fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }
}

/// A server that ends with this value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its files.
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; its files go next.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv").join(path)
}

/// What the child prints, line by line, read on as long as it lives so that it never waits for a reader.
fn start(command: &mut Command) -> (Child, Receiver<String>) {
    let (read, write) = std::io::pipe().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(write.try_clone().unwrap())
        .stderr(write);
    let child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; run `make setup`"));
    // The command keeps the ends that the child writes to.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (send, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(read).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    (child, lines)
}

/// Waits for the line that `wanted` takes; `Err` with all that was printed if the child ended, or took too long.
fn wait_for<T>(lines: &Receiver<String>, wanted: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let end = Instant::now() + DEADLINE;
    let mut printed = String::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(left) else {
            return Err(printed);
        };
        if let Some(found) = wanted(&line) {
            return Ok(found);
        }
        printed = printed + &line + "\n";
    }
}

/// The digits after the last colon of `line`, if it has `before`.
fn port_after(line: &str, before: &str) -> Option<u16> {
    let (_, rest) = line.split_once(before)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
