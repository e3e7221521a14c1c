//! SeaweedFS, all of its parts in one process, which may be killed and started again on the same files.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use tpde_store::keys::Key;

use super::{BUCKET, DEADLINE, Endpoint, Server, installed, start, wait_for};

const KEY: (&str, &str) = ("tpde", "a-secret-of-the-tests");

/// Parts of the server that listen, each for HTTP and for its own protocol; the one for clients first.
const PARTS: [&str; 5] = ["s3", "master", "volume", "filer", "admin"];

/// A port for each part, and one for its protocol.
type Ports = [u16; 2 * PARTS.len()];

/// SeaweedFS on ports of its own.
#[derive(Debug)]
pub struct Seaweed {
    server: Server,
    ports: Ports,
}

/// Starts it with no files.
///
/// # Panics
/// If it is not installed, or does not come up.
pub fn seaweedfs() -> Seaweed {
    // Between choosing a port and listening on it another process may take it; then others are chosen.
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("files")).unwrap();
        let ports = free_ports();
        match run(folder.path(), &ports) {
            Ok(child) => {
                let endpoint = Endpoint::local(ports[0], KEY);
                write_until_it_can(&endpoint);
                return Seaweed {
                    server: Server {
                        child,
                        endpoint,
                        folder,
                    },
                    ports,
                };
            }
            Err(printed) => eprintln!("SeaweedFS did not start, trying other ports:\n{printed}"),
        }
    }
    panic!("SeaweedFS did not start");
}

impl Seaweed {
    /// Where its clients find it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.server.endpoint
    }

    /// Kills the process, with no time for anything.
    pub fn kill(&mut self) {
        self.server.child.kill().unwrap();
        self.server.child.wait().unwrap();
    }

    /// Starts it again, where it was, on the files that it left.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_again(&mut self) {
        // A client's own end of a connection may have taken a port meanwhile, for a moment.
        for _ in 0..3 {
            match run(self.server.folder.path(), &self.ports) {
                Ok(child) => {
                    self.server.child = child;
                    write_until_it_can(self.endpoint());
                    return;
                }
                Err(printed) => eprintln!("SeaweedFS did not start again:\n{printed}"),
            }
        }
        panic!("SeaweedFS did not start again");
    }
}

/// Creates objects until one after the other works: the parts of a server that says it is up may not have found each other.
fn write_until_it_can(endpoint: &Endpoint) {
    let end = Instant::now() + DEADLINE;
    let objects = endpoint.part("up");
    let mut in_a_row = 0;
    for seq in 0.. {
        match objects.create(&Key::Slot(crate::run(), seq), "".into()) {
            Ok(_) if in_a_row == 4 => return,
            Ok(_) => in_a_row += 1,
            Err(error) => {
                assert!(
                    Instant::now() < end,
                    "SeaweedFS is up and does not write: {error}"
                );
                in_a_row = 0;
            }
        }
    }
}

/// Ports that nobody listens on, all different.
fn free_ports() -> Ports {
    let held = [(); 2 * PARTS.len()].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Runs it on the files of `folder`; `Err` with what it printed if it does not come up.
fn run(folder: &Path, ports: &Ports) -> Result<Child, String> {
    let (mut child, lines) = start(&mut command(folder, ports));
    let is_up = |line: &str| line.contains("components are running").then_some(());
    wait_for(&lines, is_up).inspect_err(|_| {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    })?;
    Ok(child)
}

fn command(folder: &Path, ports: &Ports) -> Command {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut command = Command::new(installed("bin/weed"));
    command.arg("mini").args([
        format!("-dir={}", at("files")),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        "-master.telemetry=false".to_owned(),
        "-webdav=false".to_owned(),
        "-admin.ui=false".to_owned(),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        format!("-s3.localSocket={}", at("s3.sock")),
        format!("-filer.localSocket={}", at("filer.sock")),
    ]);
    for (part, pair) in PARTS.iter().zip(ports.chunks_exact(2)) {
        command.arg(format!("-{part}.port={}", pair[0]));
        command.arg(format!("-{part}.port.grpc={}", pair[1]));
    }
    command
        .env("AWS_ACCESS_KEY_ID", KEY.0)
        .env("AWS_SECRET_ACCESS_KEY", KEY.1)
        .env("S3_BUCKET", BUCKET)
        .current_dir(folder);
    command
}
