//! A server of this test's own that answers for others, as lines and proxies do: it passes requests on, loses them, loses their
//! answers, or says what it likes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tpde_tests::servers::Endpoint;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is passed on, and so is the answer.
    Pass,
    /// The connection ends before it is passed on.
    LostRequest,
    /// It is carried out; the connection ends before the answer.
    LostAnswer,
    /// It is carried out, and this is said instead.
    DoneBut(&'static str),
    /// It is not carried out, and this is said.
    Say(&'static str),
}

/// A request, as far as fate may depend on it.
#[derive(Debug)]
pub(crate) struct Request {
    /// As in `PUT`.
    pub(crate) method: String,
    /// Place in the order of the requests of its method, from 0.
    pub(crate) count: usize,
}

/// A relay before a server; it stays until the test ends.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub(crate) endpoint: Endpoint,
    requests: Arc<AtomicUsize>,
}

impl Relay {
    /// Starts one before `behind` whose requests have the fate that `decide` gives them.
    pub(crate) fn start(
        behind: &Endpoint,
        decide: impl Fn(&Request) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = (behind.key.0.as_str(), behind.key.1.as_str());
        let relay = Self {
            endpoint: Endpoint::local(port, key),
            requests: Arc::default(),
        };
        let (requests, puts, others) = (relay.requests.clone(), AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new((decide, puts, others, behind.port()));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, requests) = (shared.clone(), requests.clone());
                thread::spawn(move || {
                    let (decide, puts, others, behind) = &*shared;
                    let fate = |method: &str| {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let counter = if method == "PUT" { puts } else { others };
                        decide(&Request {
                            method: method.to_owned(),
                            count: counter.fetch_add(1, Ordering::SeqCst),
                        })
                    };
                    // A client that goes away takes nothing with it that this test asks for.
                    let _ = relayed(stream, *behind, fate);
                });
            }
        });
        relay
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// One request and its answer; then the connection ends.
fn relayed(mut client: TcpStream, behind: u16, fate: impl Fn(&str) -> Fate) -> std::io::Result<()> {
    let Some((head, body)) = message(&mut client)? else {
        return Ok(());
    };
    let method = head.split(' ').next().unwrap_or_default();
    let fate = fate(method);
    match fate {
        Fate::LostRequest => return Ok(()),
        Fate::Say(answer) => return client.write_all(answer.as_bytes()),
        Fate::Pass | Fate::LostAnswer | Fate::DoneBut(_) => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", behind))?;
    let kept = head
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: Vec<&str> = kept
        .take_while(|line| !line.is_empty())
        .chain(["connection: close"])
        .collect();
    server.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match fate {
        Fate::Pass => client.write_all(&answer),
        Fate::DoneBut(said) => client.write_all(said.as_bytes()),
        _ => Ok(()),
    }
}

/// Reads a request with a counted body; `None` if the connection ends before one.
fn message(stream: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let counted = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; counted.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok(Some((head, body)))
}
