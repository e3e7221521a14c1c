//! Sources of the kernels (`kernels/`), embedded, each as one text that NVRTC compiles without any other file.

/// What the programs include, by name.
const INCLUDED: &[(&str, &str)] = &[
    ("words.cuh", include_str!("../../kernels/words.cuh")),
    ("records.cuh", include_str!("../../kernels/records.cuh")),
    ("stream.cuh", include_str!("../../kernels/stream.cuh")),
    ("row.cuh", include_str!("../../kernels/row.cuh")),
];

/// A program: one `.cu` file, and the kernels in it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The file's name.
    pub file: &'static str,
    text: &'static str,
    /// Entry points.
    pub kernels: &'static [&'static str],
}

/// All programs.
pub const PROGRAMS: &[Program] = &[
    Program {
        file: "expand.cu",
        text: include_str!("../../kernels/expand.cu"),
        kernels: &["expand_tables"],
    },
    Program {
        file: "copy.cu",
        text: include_str!("../../kernels/copy.cu"),
        kernels: &["copy_16", "copy_32"],
    },
    Program {
        file: "sparse.cu",
        text: include_str!("../../kernels/sparse.cu"),
        kernels: &[
            "sparse_float_16",
            "sparse_float_32",
            "sparse_int_16",
            "sparse_int_32",
        ],
    },
    Program {
        file: "dense.cu",
        text: include_str!("../../kernels/dense.cu"),
        kernels: &["dense_float_16", "dense_float_32", "dense_int_16", "dense_int_32"],
    },
    Program {
        file: "fresh.cu",
        text: include_str!("../../kernels/fresh.cu"),
        kernels: &["fresh_float_16", "fresh_float_32", "fresh_int_16", "fresh_int_32"],
    },
];

/// Options that every compiler run gets beside the architecture.
pub const OPTIONS: &[&str] = &["--std=c++17"];

impl Program {
    /// The whole text: each included file once, before its first use; lines keep their numbers.
    pub fn source(&self) -> String {
        let mut text = String::new();
        inline(self.file, self.text, &mut Vec::new(), &mut text);
        text
    }
}

fn inline(file: &str, from: &'static str, seen: &mut Vec<&'static str>, to: &mut String) {
    to.push_str(&format!("#line 1 \"{file}\"\n"));
    for (line, number) in from.lines().zip(1..) {
        let name = line
            .strip_prefix("#include \"")
            .and_then(|rest| rest.strip_suffix('"'));
        match name.and_then(|name| INCLUDED.iter().find(|(known, _)| *known == name)) {
            Some((name, text)) => {
                if !seen.contains(name) {
                    seen.push(name);
                    inline(name, text, seen, to);
                }
                to.push_str(&format!("#line {} \"{file}\"\n", number + 1));
            }
            None => {
                // Each text comes once, and the main file of a program may not say so.
                let line = if line == "#pragma once" { "" } else { line };
                to.push_str(line);
                to.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a program needs no other file, and has the kernels that it is said to have.
    #[test]
    fn programs_stand_alone() {
        for program in PROGRAMS {
            let source = program.source();
            assert!(
                !source.contains("#include"),
                "{}: includes are left",
                program.file
            );
            assert_eq!(source.matches("struct Layout {").count(), 1, "{}", program.file);
            let entries = source.matches("extern \"C\" __global__").count();
            assert_eq!(entries, program.kernels.len(), "{}", program.file);
            for kernel in program.kernels {
                assert!(
                    source.contains(&format!(" {kernel}(const Plan plan)")),
                    "{kernel}"
                );
            }
        }
    }
}
