//! Google Cloud Storage and Azure Blob Storage, by the variables of their own tools.

use std::sync::Arc;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;

use super::environment::Environment;
use super::paced::Connector;
use super::rate::Limiter;
use super::server::{Server, client, once, placed, retries, unusable};
use crate::error::{Result, StoreError};

/// Opens a place in a bucket of Google's.
///
/// # Errors
/// `Input`: the variables or the file of credentials cannot be used.
pub(super) fn gs(
    location: &str,
    bucket: &str,
    prefix: Path,
    environment: &Environment,
    limiter: Option<&Arc<Limiter>>,
) -> Result<Server> {
    let connector = Connector {
        plain: false,
        limiter: limiter.cloned(),
    };
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(client(false, limiter.map(Arc::as_ref)))
        .with_http_connector(connector);
    for (name, value) in environment.below("GOOGLE_") {
        if let Ok(key) = name.parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder.with_bucket_name(bucket);
    let failed = |error| unusable(location, error);
    let reader = builder.clone().with_retry(retries()).build().map_err(failed)?;
    let writer = builder.with_retry(once()).build().map_err(failed)?;
    Ok(Server {
        reader: placed(reader, &prefix),
        writer: placed(writer, &prefix),
        sorted: true,
        address: "https://storage.googleapis.com".to_owned(),
    })
}

/// Opens a place in a container of Azure's.
///
/// # Errors
/// `Input`: the variables cannot be used, or name no account.
pub(super) fn az(
    location: &str,
    container: &str,
    prefix: Path,
    environment: &Environment,
    limiter: Option<&Arc<Limiter>>,
) -> Result<Server> {
    let account = environment.first(&["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]);
    let Some((_, account)) = account else {
        return Err(StoreError::input(
            location,
            "no account is named",
            "Set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or what else signs you in",
        ));
    };
    let named = environment.get("AZURE_STORAGE_ENDPOINT");
    let plain = named.is_some_and(|e| e.starts_with("http://"));
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in environment.below("AZURE_") {
        if let Ok(key) = name.parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let builder = builder
        .with_account(account)
        .with_container_name(container)
        .with_client_options(client(plain, limiter.map(Arc::as_ref)))
        .with_http_connector(Connector {
            plain,
            limiter: limiter.cloned(),
        });
    let usual = || format!("https://{account}.blob.core.windows.net");
    let address = named.map_or_else(usual, str::to_owned);
    let failed = |error| unusable(location, error);
    let reader = builder.clone().with_retry(retries()).build().map_err(failed)?;
    let writer = builder.with_retry(once()).build().map_err(failed)?;
    Ok(Server {
        reader: placed(reader, &prefix),
        writer: placed(writer, &prefix),
        sorted: true,
        address,
    })
}
