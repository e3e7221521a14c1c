//! A client whose uploads are held back to a rate, portion by portion, so that a line shared with others stays usable.
//!
//! Downloads are held back by whoever reads them: a server sends no faster than it is read.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};

use super::rate::{Limiter, PORTION_BYTES};
use super::server::{CONNECT_TIMEOUT, request_timeout};

/// Makes clients for one place.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// Whether a connection may be one that anybody on the way can read.
    pub(super) plain: bool,
    /// Nothing is held back without one.
    pub(super) limiter: Option<Arc<Limiter>>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let Some(limiter) = &self.limiter else {
            return ReqwestConnector::default().connect(options);
        };
        let client = reqwest::Client::builder()
            .https_only(!self.plain)
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(request_timeout(Some(limiter)))
            .build();
        let client = client.map_err(|source| object_store::Error::Generic {
            store: "client",
            source: Box::new(source),
        })?;
        Ok(HttpClient::new(Paced {
            client,
            limiter: Arc::clone(limiter),
        }))
    }
}

#[derive(Debug)]
struct Paced {
    client: reqwest::Client,
    limiter: Arc<Limiter>,
}

#[async_trait]
impl HttpService for Paced {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let url = url
            .parse()
            .map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if body.content_length() > 0 {
            let portions = portions(body.into_data_stream(), Arc::clone(&self.limiter));
            *request.body_mut() = Some(reqwest::Body::wrap_stream(portions));
        }
        let response = self.client.execute(request).await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = reqwest::Body::from(response).map_err(failed);
        let mut answer = HttpResponse::new(HttpResponseBody::new(body));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

/// Cuts a body into portions, each of which waits until it may go.
fn portions(
    body: impl Stream<Item = Result<Bytes, HttpError>> + Send + 'static,
    limiter: Arc<Limiter>,
) -> impl Stream<Item = Result<Bytes, HttpError>> + Send + 'static {
    let cut = body.map_ok(|mut bytes| {
        let portion = move || {
            let len = bytes.len().min(PORTION_BYTES);
            (len > 0).then(|| Ok(bytes.split_to(len)))
        };
        stream::iter(std::iter::from_fn(portion))
    });
    cut.try_flatten().then(move |portion: Result<Bytes, HttpError>| {
        let limiter = Arc::clone(&limiter);
        async move {
            if let Ok(bytes) = &portion {
                limiter.pass(bytes.len()).await;
            }
            portion
        }
    })
}

/// How far a failed request came, which tells whether a write may have been done.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_timeout() {
        HttpErrorKind::Timeout
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error.without_url())
}
