//! SeaweedFS on this machine, for what a line to a server costs: started on free ports, ended by its process id.

use std::io::{BufRead, BufReader, Error, Result};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The bucket that it has.
pub const BUCKET: &str = "bench";
/// Id and secret of its key.
pub const KEY: (&str, &str) = ("bench", "a-secret-of-the-bench");

/// Parts of the server that listen, each for HTTP and for its own protocol.
const PARTS: [&str; 5] = ["s3", "master", "volume", "filer", "admin"];

/// A server that ends with this value.
#[derive(Debug)]
pub struct Seaweed {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Seaweed {
    /// Starts it, with its files in the system's temporary folder.
    ///
    /// # Errors
    /// If it is not installed (`make setup`) or does not come up.
    pub fn start() -> Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/weed");
        if !program.exists() {
            return Err(Error::other("SeaweedFS is not installed: run `make setup`"));
        }
        let folder = tempfile::tempdir()?;
        let at = |name: &str| -> PathBuf { folder.path().join(name) };
        std::fs::create_dir(at("files"))?;
        let mut command = Command::new(program);
        command.arg("mini").arg(format!("-dir={}", at("files").display()));
        for fixed in [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ] {
            command.arg(fixed);
        }
        // Held until all are chosen, so that they differ.
        let held: Result<Vec<TcpListener>> = (0..2 * PARTS.len())
            .map(|_| TcpListener::bind(("127.0.0.1", 0)))
            .collect();
        let ports: Result<Vec<u16>> = held?.iter().map(|held| Ok(held.local_addr()?.port())).collect();
        let ports = ports?;
        for (part, pair) in PARTS.iter().zip(ports.chunks_exact(2)) {
            command.arg(format!("-{part}.port={}", pair[0]));
            command.arg(format!("-{part}.port.grpc={}", pair[1]));
        }
        for socket in ["s3", "filer"] {
            command.arg(format!(
                "-{socket}.localSocket={}",
                at(&format!("{socket}.sock")).display()
            ));
        }
        let (read, write) = std::io::pipe()?;
        let child = command
            .env("AWS_ACCESS_KEY_ID", KEY.0)
            .env("AWS_SECRET_ACCESS_KEY", KEY.1)
            .env("S3_BUCKET", BUCKET)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(write.try_clone()?)
            .stderr(write)
            .spawn()?;
        drop(command);
        let server = Self {
            child,
            port: ports[0],
            _folder: folder,
        };
        let mut lines = BufReader::new(read).lines();
        let is_up = |line: &Result<String>| line.as_ref().is_ok_and(|l| l.contains("components are running"));
        if !lines.any(|line| is_up(&line)) {
            return Err(Error::other("SeaweedFS ended before it was up; run this again"));
        }
        // Read on, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }

    /// As in `http://127.0.0.1:9000`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
