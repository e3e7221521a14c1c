//! The kernels compile for every architecture that the project names, with the NVRTC of a Python package: no GPU, no CUDA.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tpde_infer::sources::{OPTIONS, PROGRAMS};

/// A100; RTX 30, RTX 40, H100 and H200, B200, RTX 50.
const ARCHITECTURES: [&str; 6] = [
    "compute_80",
    "compute_86",
    "compute_89",
    "compute_90",
    "compute_100",
    "compute_120",
];

/// Promise: every kernel is in every architecture's PTX, and has no shared memory but what the planner gives it.
#[test]
fn for_every_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join(".venv/bin/python");
    assert!(python.exists(), "no .venv: `make setup` makes it");
    for program in PROGRAMS {
        let mut child = Command::new(&python)
            .arg("-B")
            .arg(root.join("tpde-infer/tests/nvrtc.py"))
            .args([program.file, &OPTIONS.join(",")])
            .args(ARCHITECTURES)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(program.source().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}:\n{errors}", program.file);
        let text = String::from_utf8(output.stdout).unwrap();
        let parts: Vec<&str> = text.split("// compute_").skip(1).collect();
        assert_eq!(parts.len(), ARCHITECTURES.len(), "{}", program.file);
        for (architecture, ptx) in ARCHITECTURES.iter().zip(parts) {
            assert!(ptx.contains(".target sm_"), "{} {architecture}", program.file);
            for kernel in program.kernels {
                assert!(
                    ptx.contains(&format!(".entry {kernel}(")),
                    "{kernel} is not in {architecture}"
                );
            }
            for line in ptx.lines().filter(|line| line.contains(".shared .align")) {
                assert!(
                    line.starts_with(".extern") && line.ends_with("[];"),
                    "{} {architecture} has shared memory of its own: {line}",
                    program.file
                );
            }
        }
    }
}
