//! What a server said when it refused, from the text of the error: status, code, message, or that it was a web page.

use std::error::Error as StdError;
use std::fmt;

/// How the client's error begins when the server answered with a status of failure; the body follows.
const STATUS: &str = "Server returned non-2xx status code: ";

/// Longest message of a server that is repeated.
const MAX_MESSAGE_LEN: usize = 300;

/// A server's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status, with its words: `403 Forbidden`.
    pub(super) status: String,
    /// The service's own word for it, if it gave one: `NoSuchBucket`.
    pub(super) code: String,
    /// The service's sentence, if it gave one.
    message: String,
    /// Whether a web page came instead of what a store of objects answers.
    pub(super) is_page: bool,
}

impl Answer {
    /// Finds the refusal in what an error and its causes say.
    pub(super) fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if let Some(answer) = text.strip_prefix(STATUS) {
                return Some(Self::parse(answer));
            }
            cause = error.source();
        }
        None
    }

    /// * `text`: `403 Forbidden: BODY`.
    fn parse(text: &str) -> Self {
        let (status, body) = text.split_once(": ").unwrap_or((text, ""));
        Self {
            status: status.trim_end_matches(':').to_owned(),
            code: element(body, "Code"),
            message: element(body, "Message"),
            is_page: is_page(body.as_bytes()),
        }
    }

    /// Whether the server may do it a moment later.
    pub(super) fn is_busy(&self) -> bool {
        ["408", "429"]
            .iter()
            .any(|status| self.status.starts_with(status))
    }

    /// Whether the server surely did nothing, and will do nothing if it is asked again.
    ///
    /// A failure of its own, or of a relay before it, does not say what was done.
    pub(super) fn refuses(&self) -> bool {
        match self.status.as_bytes().first() {
            Some(b'3' | b'4') => !self.is_busy(),
            _ => self.status.starts_with("501"),
        }
    }

    /// Whether the code is one of `codes`.
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answers {}", self.status)?;
        if self.is_page {
            return f.write_str(" with a web page");
        }
        if !self.code.is_empty() {
            write!(f, ", {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

/// Whether the bytes begin as a web page does.
pub(super) fn is_page(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"].iter().any(|page| {
        start
            .get(..page.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(page))
    })
}

/// The text of the first element called `name`, in XML; empty if there is none.
fn element(xml: &str, name: &str) -> String {
    let found = xml
        .split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    let text = found.map_or("", |(text, _)| text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let plain = words
        .join(" ")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    plain.chars().take(MAX_MESSAGE_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: code and message of a refusal are told; of a web page nothing but that it is one.
    #[test]
    fn answers() {
        let xml = "400 Bad Request: <?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Message>The provided token\n has expired.</Message></Error>";
        let answer = Answer::parse(xml);
        assert!(answer.is(&["Other", "ExpiredToken"]) && !answer.is_page);
        assert_eq!(
            answer.to_string(),
            "the server answers 400 Bad Request, ExpiredToken: The provided token has expired"
        );
        let page =
            Answer::parse("407 Proxy Authentication Required: \n<!DOCTYPE HTML><title>Sign in</title>");
        assert_eq!(
            page.to_string(),
            "the server answers 407 Proxy Authentication Required with a web page"
        );
        assert_eq!(
            Answer::parse("404 Not Found: ").to_string(),
            "the server answers 404 Not Found"
        );
        assert_eq!(Answer::parse("404 Not Found").status, "404 Not Found");
    }

    /// Promise: an answer is found below any number of causes.
    #[test]
    fn causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Box<dyn StdError + Send + Sync>);
        let inner = Outer(format!("{STATUS}503 Service Unavailable: ").into());
        let error = Outer(Box::new(inner));
        assert_eq!(Answer::of(&error).unwrap().status, "503 Service Unavailable");
        assert_eq!(Answer::of(&Outer("timed out".into())), None);
    }
}
