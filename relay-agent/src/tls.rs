//! What is trusted: the certificates the operating system trusts, and those of one file in addition.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::explain::{Code, Failure};

/// Opens TLS with relay and services alike. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the certificates to trust. Always verifies; only HTTP/1.1 is negotiated.
    ///
    /// # Errors
    ///
    /// [`Code::ConfigValue`] if the CA file is unusable, [`Code::Tls`] if nothing is trusted at all.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, Failure> {
        let extra = match ca_file {
            Some(path) => read_certificates(path)?,
            None => Vec::new(),
        };
        let provider = Arc::new(ring::default_provider());
        let verifier =
            Verifier::new_with_extra_roots(extra, provider.clone()).map_err(|error| {
                Failure::new(Code::Tls, format!("no certificates to trust: {error}"))
                    .fix("install the package ca-certificates, or give a CA file with --ca-file")
            })?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::new(Code::Tls, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Speaks TLS with `host` over a fresh connection.
    ///
    /// # Errors
    ///
    /// Those of the handshake; the reason is in words.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> std::io::Result<Box<TlsStream<TcpStream>>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| std::io::Error::other(format!("{host:?} is not a name TLS can verify")))?;
        Ok(Box::new(self.0.connect(name, stream).await?))
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |what: String| {
        Failure::new(
            Code::ConfigValue,
            format!("tls.ca_file: {}: {what}", path.display()),
        )
        .fix("expected one or more certificates in PEM form")
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_ca_file_is_a_mistake_of_configuration() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        for path in [file.path(), Path::new("/nowhere/ca.pem")] {
            assert_eq!(Tls::new(Some(path)).unwrap_err().code, Code::ConfigValue);
        }
    }
}
