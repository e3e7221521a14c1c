//! What all servers have in common: two clients of one place, and how patient they are.

use std::sync::{Arc, Once};
use std::time::Duration;

use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::rate::Limiter;
use crate::error::StoreError;

/// How often a read is tried again; with the waits below, for about six seconds in all.
const READ_RETRIES: usize = 6;
/// Longest that one request may take: the largest pack, at two megabits a second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes of all requests that are under way at one time, in either direction, at most.
const MOST_UNDER_WAY_BYTES: u64 = 512 << 20;
/// Longest that a server may take to accept a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A place on a server.
pub(super) struct Server {
    /// Repeats what failed.
    pub(super) reader: Arc<dyn ObjectStore>,
    /// Asks once, so that every answer is the answer to the only request.
    pub(super) writer: Arc<dyn ObjectStore>,
    /// Whether listings come in the order of the keys.
    pub(super) sorted: bool,
    /// The address that requests go to, for messages.
    pub(super) address: String,
}

/// The place `prefix` of a bucket.
pub(super) fn placed(bucket: impl ObjectStore, prefix: &Path) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        Arc::new(bucket)
    } else {
        Arc::new(PrefixStore::new(bucket, prefix.clone()))
    }
}

/// How a connection is made.
///
/// * `plain`: whether it may be one that anybody on the way can read.
/// * `limiter`: what holds bytes back, so that a request may take longer.
pub(super) fn client(plain: bool, limiter: Option<&Limiter>) -> ClientOptions {
    static CIPHERS: Once = Once::new();
    // The client takes the ciphers of the process. An error says that the program around this crate has chosen its own.
    CIPHERS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    ClientOptions::new()
        .with_allow_http(plain)
        .with_timeout(request_timeout(limiter))
        .with_connect_timeout(CONNECT_TIMEOUT)
}

/// Longest that one request may take.
///
/// * `limiter`: the bytes of all requests that may be under way wait for it.
pub(super) fn request_timeout(limiter: Option<&Limiter>) -> Duration {
    let held_back = limiter.map_or(Duration::ZERO, |limiter| limiter.duration(MOST_UNDER_WAY_BYTES));
    REQUEST_TIMEOUT.saturating_add(held_back)
}

/// For reads.
pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(4),
            base: 2.,
        },
        max_retries: READ_RETRIES,
        retry_timeout: Duration::from_secs(60),
    }
}

/// For writes.
pub(super) fn once() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..retries()
    }
}

/// The error for settings that the client refuses.
pub(super) fn unusable(location: &str, error: object_store::Error) -> StoreError {
    let text = match error {
        object_store::Error::Generic { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    StoreError::input(
        location,
        text,
        "Correct the variable or profile, see docs/backends.md",
    )
}
