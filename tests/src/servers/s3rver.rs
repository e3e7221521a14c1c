//! s3rver, an S3 server of Node.js that takes no notice of conditions.

use std::process::Command;

use super::{BUCKET, Endpoint, Server, installed, port_after, start, wait_for};

/// Set to 1, a server that is not installed is a failure.
const REQUIRE: &str = "TPDE_REQUIRE_SERVERS";

/// s3rver, which takes no notice of conditions; `None` where there is no Node.js, in a line that says so.
pub fn s3rver() -> Option<Server> {
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
        folder,
    })
}
