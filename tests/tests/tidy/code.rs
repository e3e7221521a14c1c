//! Rust source without its comments and literals, as far as finding a keyword needs it.

/// Lines, from 1, where the keyword stands in code.
pub(crate) fn unsafe_lines(rust: &str) -> Vec<usize> {
    let code = code_only(rust);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let has_keyword = |line: &str| line.split(|c| !is_word(c)).any(|word| word == "unsafe");
    code.lines()
        .enumerate()
        .filter(|(_, line)| has_keyword(line))
        .map(|(index, _)| index + 1)
        .collect()
}

/// `rust` with comments, strings and character literals left out; line breaks stay.
pub(crate) fn code_only(rust: &str) -> String {
    let mut code = String::with_capacity(rust.len());
    let mut rest = rust;
    while let Some(c) = rest.chars().next() {
        let skip = literal_or_comment(rest, code.chars().next_back());
        if skip > 0 {
            code.extend(rest[..skip].chars().filter(|c| *c == '\n'));
            code.push(' ');
            rest = &rest[skip..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// Length in bytes of the comment or literal that `rest` starts with; 0 for code.
pub(crate) fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    let end_of = |from: usize, end: &str| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        let (mut depth, mut at) = (0_usize, 0);
        while at < rest.len() {
            match &rest.as_bytes()[at..] {
                [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
                [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        return at;
    }
    let in_name = before.is_some_and(|c| c.is_alphanumeric() && c != 'b' && c != 'c' || c == '_');
    if rest.starts_with('r') && !in_name {
        let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            return end_of(2 + hashes, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    match rest.as_bytes() {
        [b'"', ..] => end_of_quoted(rest, b'"'),
        // 'x' or '\n' is a character, 'a without a second quote a lifetime.
        [b'\'', b'\\', ..] => end_of_quoted(rest, b'\''),
        [b'\'', ..] if rest[1..].chars().nth(1) == Some('\'') => end_of(1, "'"),
        _ => 0,
    }
}

pub(crate) fn end_of_quoted(rest: &str, quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest.as_bytes()[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}
