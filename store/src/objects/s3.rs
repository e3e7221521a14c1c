//! Amazon S3, and the servers that speak its protocol.
//!
//! Settings come from the variables that AWS's own tools read, then from their profiles. Reads are repeated by the client;
//! writes never are, for only the store's protocol knows what a lost answer means.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{
    AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider, S3ConditionalPut,
};
use object_store::path::Path;
use object_store::{CredentialProvider, Error};

use super::environment::Environment;
use super::paced::Connector;
use super::profile::Profile;
use super::rate::Limiter;
use super::server::{Server, client, once, placed, retries, unusable};
use crate::error::{Result, StoreError};

/// The region of servers that have none.
const DEFAULT_REGION: &str = "us-east-1";

/// How the names of buckets end whose listings come in no order.
const UNSORTED_BUCKETS: &str = "--x-s3";

/// Where a machine of Amazon's finds its credentials.
const MACHINE: &str = "the metadata service of the machine";

/// There is nothing to sign requests with.
#[derive(Debug, thiserror::Error)]
#[error("there are no credentials: {tried}")]
pub(super) struct NoCredentials {
    tried: String,
}

/// What to do about it.
pub(super) const NO_CREDENTIALS_HINT: &str =
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE";

/// The last place to look for credentials, where a failure means that there are none.
#[derive(Debug)]
struct Machine(AwsCredentialProvider);

#[async_trait::async_trait]
impl CredentialProvider for Machine {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.0.get_credential().await.map_err(|error| {
            tracing::debug!(%error, "{MACHINE} has none");
            Error::Unauthenticated {
                path: "credentials".to_owned(),
                source: Box::new(NoCredentials {
                    tried: format!("no variables, no profile, and {MACHINE} does not answer"),
                }),
            }
        })
    }
}

/// Opens a place in a bucket.
///
/// # Errors
/// * `Input`: a variable or profile cannot be used.
/// * `Backend`: there are no credentials.
pub(super) fn open(
    location: &str,
    bucket: &str,
    prefix: Path,
    environment: &Environment,
    limiter: Option<&Arc<Limiter>>,
) -> Result<Server> {
    let profile = match environment.get("AWS_ACCESS_KEY_ID") {
        // Whoever sets a key does not want to hear of a broken profile.
        Some(_) if environment.get("AWS_PROFILE").is_none() => Profile::read(environment).unwrap_or_default(),
        _ => Profile::read(environment)?,
    };
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment.below("AWS_") {
        // Names that the client does not know belong to other programs.
        if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let asked_region = environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    let region = asked_region.map_or_else(|| profile.get("region").unwrap_or(DEFAULT_REGION), |(_, r)| r);
    builder = builder
        .with_region(region)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One by one: servers differ in how many at once they accept, and in the checksum that they want with it.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");

    let is_virtual = environment.is_on("AWS_VIRTUAL_HOSTED_STYLE_REQUEST");
    let endpoint = endpoint(environment, &profile)?;
    // Without an endpoint of the user's own nothing is ever sent in the clear.
    let plain = endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let server = endpoint
        .clone()
        .unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(match endpoint.split_once("://") {
            Some((scheme, host)) if is_virtual => format!("{scheme}://{bucket}.{host}"),
            _ => endpoint,
        });
    }
    builder = builder
        .with_bucket_name(bucket)
        .with_client_options(client(plain, limiter.map(Arc::as_ref)))
        .with_http_connector(Connector {
            plain,
            limiter: limiter.cloned(),
        });
    builder = credentials(location, builder, environment, &profile, plain)?;

    let failed = |error| unusable(location, error);
    let reader = builder.clone().with_retry(retries()).build().map_err(failed)?;
    let writer = builder.with_retry(once()).build().map_err(failed)?;
    Ok(Server {
        reader: placed(reader, &prefix),
        writer: placed(writer, &prefix),
        sorted: !bucket.ends_with(UNSORTED_BUCKETS),
        address: server,
    })
}

/// The server that the user names instead of Amazon's.
fn endpoint(environment: &Environment, profile: &Profile) -> Result<Option<String>> {
    let named = environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
    let from_profile = || Some(("endpoint_url", profile.get("endpoint_url")?));
    let Some((name, endpoint)) = named.or_else(from_profile) else {
        return Ok(None);
    };
    let host = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['@', '?', '#', ' ']) => {
            Ok(Some(endpoint.trim_end_matches('/').to_owned()))
        }
        _ => Err(StoreError::input(
            name,
            "it is not the address of a server",
            "Write it as in https://storage.example.org or http://127.0.0.1:9000",
        )),
    }
}

/// Adds what requests are signed with: a key, a profile's key, a role of the container or cluster, or the machine's own.
fn credentials(
    location: &str,
    builder: AmazonS3Builder,
    environment: &Environment,
    profile: &Profile,
    plain: bool,
) -> Result<AmazonS3Builder> {
    let is_set = |name: &str| environment.get(name).is_some();
    let none = |tried: &str| StoreError::Backend {
        action: "open",
        key: location.to_owned(),
        source: Box::new(NoCredentials {
            tried: tried.to_owned(),
        }),
        hint: NO_CREDENTIALS_HINT.to_owned(),
    };
    match (is_set("AWS_ACCESS_KEY_ID"), is_set("AWS_SECRET_ACCESS_KEY")) {
        (true, true) => return Ok(builder),
        (true, false) => return Err(none("AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not")),
        (false, true) => return Err(none("AWS_SECRET_ACCESS_KEY is set, AWS_ACCESS_KEY_ID is not")),
        (false, false) if environment.is_on("AWS_SKIP_SIGNATURE") => return Ok(builder),
        (false, false) => {}
    }
    if is_set("AWS_WEB_IDENTITY_TOKEN_FILE") && is_set("AWS_ROLE_ARN") {
        return Ok(builder);
    }
    if let Some((id, secret)) = profile.keys() {
        let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return Ok(match profile.get("aws_session_token") {
            Some(token) => builder.with_token(token),
            None => builder,
        });
    }
    let container = [
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    if container.iter().any(|name| is_set(name)) {
        return Ok(builder);
    }
    if environment.is_on("AWS_EC2_METADATA_DISABLED") {
        return Err(none(
            "no variables and no profile, and AWS_EC2_METADATA_DISABLED is set",
        ));
    }
    // Asked once: off Amazon's machines nobody answers there, and the user should not wait to be told.
    let asks_machine = builder
        .clone()
        .with_client_options(client(plain, None))
        .with_retry(object_store::RetryConfig {
            max_retries: 1,
            retry_timeout: Duration::from_secs(3),
            ..once()
        });
    let asks_machine = asks_machine.build().map_err(|error| unusable(location, error))?;
    let machine = Machine(Arc::clone(asks_machine.credentials()));
    Ok(builder.with_credentials(Arc::new(machine)))
}
