//! What is trusted in TLS: the authorities, from a file or from the system.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The cryptography that both programs use, named so that no default is asked for at run time.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities in `file` (PEM), and only these; without a file, those of the system.
pub fn roots(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            bail!("the system has no certificate authorities: install ca-certificates");
        }
        return Ok(roots);
    };
    let wrong = || format!("cannot read certificates from {}", file.display());
    for certificate in CertificateDer::pem_file_iter(file).with_context(wrong)? {
        roots.add(certificate.with_context(wrong)?).with_context(wrong)?;
    }
    if roots.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(roots)
}
