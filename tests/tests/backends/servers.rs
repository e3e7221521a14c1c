//! Real servers on this machine: started on ports of their own, ended by their process ids.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tpde_store::Objects;
use tpde_store::objects::Environment;

/// Longest that a server may take to come up on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The bucket that every server has.
pub(crate) const BUCKET: &str = "bucket";

/// Set to 1, a server that is not installed is a failure.
const REQUIRE: &str = "TPDE_REQUIRE_SERVERS";

/// A place to put stores: an endpoint, and a key to its bucket.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// As in `http://127.0.0.1:9000`.
    pub(crate) url: String,
    /// Id and secret of the key.
    pub(crate) key: (String, String),
}

impl Endpoint {
    /// An endpoint on this machine, with a key that the servers here accept.
    pub(crate) fn local(port: u16, key: (&str, &str)) -> Self {
        Self {
            url: format!("http://127.0.0.1:{port}"),
            key: (key.0.to_owned(), key.1.to_owned()),
        }
    }

    /// Opens `location` there.
    pub(crate) fn open(&self, location: &str) -> Objects {
        Objects::open_with(location, &self.environment()).unwrap()
    }

    fn environment(&self) -> Environment {
        let variables = [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_ACCESS_KEY_ID", &self.key.0),
            ("AWS_SECRET_ACCESS_KEY", &self.key.1),
            ("HOME", "/nonexistent"),
        ];
        variables.into_iter().collect()
    }

    /// Opens the part `part` of the bucket, over a line that carries no more than `rate`.
    pub(crate) fn part_at_rate(&self, part: &str, rate: &str) -> Objects {
        let location = format!("s3://{BUCKET}/{part}");
        Objects::open_at_rate(&location, &self.environment(), Some(rate.parse().unwrap())).unwrap()
    }

    /// Opens the part `part` of the bucket.
    pub(crate) fn part(&self, part: &str) -> Objects {
        self.open(&format!("s3://{BUCKET}/{part}"))
    }

    /// The port of this machine.
    pub(crate) fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }
}

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) endpoint: Endpoint,
    /// Its files.
    _folder: TempDir,
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

/// moto looks for an object and stores it in two steps, so of two requests at the same time both may create it. A server of this kind that
/// takes one request after the other decides as a real one does.
const ONE_AT_A_TIME: &str = "
import moto.server, werkzeug.serving
def one_at_a_time(*args, **options):
    werkzeug.serving.run_simple(*args, **(options | {'threaded': False}))
moto.server.run_simple = one_at_a_time
moto.server.main()
";

/// moto's server, which chooses its port itself.
pub(crate) fn moto() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(installed("bin/python"));
    command
        .args(["-c", ONE_AT_A_TIME, "-H", "127.0.0.1", "-p", "0"])
        .current_dir(folder.path());
    let (child, lines) = start(&mut command);
    let port = wait_for(&lines, |line| port_after(line, "Running on http://127.0.0.1:")).unwrap();
    let server = Server {
        child,
        endpoint: Endpoint::local(port, ("moto", "secret")),
        _folder: folder,
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server
}

/// Ports that nobody listens on, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// SeaweedFS, all of its parts in one process.
pub(crate) fn seaweedfs() -> Server {
    const KEY: (&str, &str) = ("tpde", "a-secret-of-the-tests");
    // Between choosing a port and listening on it another process may take it; then others are chosen.
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let [
            s3,
            s3_grpc,
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
            admin,
            admin_grpc,
        ] = free_ports();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let files = at("files");
        fs::create_dir(&files).unwrap();
        let mut command = Command::new(installed("bin/weed"));
        command
            .arg("mini")
            .args([
                format!("-dir={files}"),
                "-ip=127.0.0.1".to_owned(),
                "-ip.bind=127.0.0.1".to_owned(),
                "-master.telemetry=false".to_owned(),
                "-webdav=false".to_owned(),
                "-admin.ui=false".to_owned(),
                "-s3.port.iceberg=0".to_owned(),
                "-s3.port.lance=0".to_owned(),
                format!("-s3.localSocket={}", at("s3.sock")),
                format!("-filer.localSocket={}", at("filer.sock")),
            ])
            .args(
                [
                    ("s3.port", s3),
                    ("s3.port.grpc", s3_grpc),
                    ("master.port", master),
                    ("master.port.grpc", master_grpc),
                    ("volume.port", volume),
                    ("volume.port.grpc", volume_grpc),
                    ("filer.port", filer),
                    ("filer.port.grpc", filer_grpc),
                    ("admin.port", admin),
                    ("admin.port.grpc", admin_grpc),
                ]
                .map(|(name, port)| format!("-{name}={port}")),
            )
            .env("AWS_ACCESS_KEY_ID", KEY.0)
            .env("AWS_SECRET_ACCESS_KEY", KEY.1)
            .env("S3_BUCKET", BUCKET)
            .current_dir(folder.path());
        let (child, lines) = start(&mut command);
        let server = Server {
            child,
            endpoint: Endpoint::local(s3, KEY),
            _folder: folder,
        };
        match wait_for(&lines, |line| {
            line.contains("components are running").then_some(())
        }) {
            Ok(()) => return server,
            Err(printed) => eprintln!("SeaweedFS did not start, trying other ports:\n{printed}"),
        }
    }
    panic!("SeaweedFS did not start");
}

/// s3rver, which takes no notice of conditions; `None` where there is no Node.js, in a line that says so.
pub(crate) fn s3rver() -> Option<Server> {
    let script = installed("node/node_modules/s3rver/bin/s3rver.js");
    let node = Command::new("node").arg("--version").output();
    let missing = match node {
        Ok(node) if node.status.success() && script.exists() => None,
        Ok(node) if node.status.success() => {
            Some("s3rver is not installed: `make setup` does it where npm is")
        }
        _ => Some("there is no Node.js"),
    };
    if let Some(missing) = missing {
        assert!(
            std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
            "{missing}, and {REQUIRE} is set"
        );
        eprintln!("left out: {missing}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("node");
    command
        .arg(script)
        .args([
            "-a",
            "127.0.0.1",
            "-p",
            "0",
            "--no-vhost-buckets",
            "--configure-bucket",
            BUCKET,
            "-d",
        ])
        .arg(folder.path());
    let (child, lines) = start(&mut command);
    let port = wait_for(&lines, |line| port_after(line, "listening on 127.0.0.1:")).unwrap();
    Some(Server {
        child,
        endpoint: Endpoint::local(port, ("S3RVER", "S3RVER")),
        _folder: folder,
    })
}
