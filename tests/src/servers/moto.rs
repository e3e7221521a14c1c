//! moto, an S3 server of Python that keeps everything in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use super::{BUCKET, Endpoint, Server, installed, port_after, start, wait_for};

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
///
/// # Panics
/// If it is not installed, or does not come up.
pub fn moto() -> Server {
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
        folder,
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // A server that takes one request after the other speaks HTTP/1.0.
    assert_eq!(answer.split(' ').nth(1), Some("200"), "{answer}");
    server
}
