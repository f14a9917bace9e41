//! Which certificates are good enough.

use std::{path::Path, sync::Arc};

use outbox_config::tls::{provider, roots};
use rustls::ClientConfig;

use super::trouble::Cause;

/// The configuration for one connection. The certificate must be for the relay's name, and be issued by an authority
/// in `ca_file`, or without that by one of the system's.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Cause> {
    let roots = roots(ca_file).map_err(|error| Cause::Tls(format!("{error:#}")))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Cause::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
