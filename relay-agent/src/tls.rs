//! What is trusted: the certificates the operating system trusts, and those of one file in addition.

use std::{fmt::Display, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder,
    client::{WantsClientCert, danger::ServerCertVerifier},
    crypto::ring,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;

use crate::{
    config::CertificateFiles,
    explain::{Code, Failure},
    net::Stream,
};

/// Opens TLS with relay and services alike. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    verifier: Arc<Verifier>,
    connector: TlsConnector,
}

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
            Some(path) => read_certificates("tls.ca_file", path)?,
            None => Vec::new(),
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new_with_extra_roots(extra, provider).map_err(|error| {
            Failure::new(Code::Tls, format!("no certificates to trust: {error}"))
                .fix("install the package ca-certificates, or give a CA file with --ca-file")
        })?;
        let verifier = Arc::new(verifier);
        let config = builder(verifier.clone())?.with_no_client_auth();
        Ok(Self {
            verifier,
            connector: connector(config),
        })
    }

    /// The same with a certificate that is shown to who asks for one.
    ///
    /// # Errors
    ///
    /// [`Code::ConfigValue`] if certificate or key are unusable, or do not belong together.
    pub fn with_client_certificate(&self, files: &CertificateFiles) -> Result<Self, Failure> {
        let chain = read_certificates("tls.client_cert_file", &files.certificate)?;
        let unusable = |error: &dyn Display| {
            let path = files.key.display();
            Failure::new(
                Code::ConfigValue,
                format!("tls.client_key_file: {path}: {error}"),
            )
            .fix("expected the unencrypted private key of the client certificate in PEM form")
        };
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&error))?;
        let config = builder(self.verifier.clone())?
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            verifier: self.verifier.clone(),
            connector: connector(config),
        })
    }

    /// Speaks TLS with `host` over a fresh connection.
    ///
    /// # Errors
    ///
    /// Those of the handshake; the reason is in words.
    pub async fn connect(&self, host: &str, stream: Stream) -> std::io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| std::io::Error::other(format!("{host:?} is not a name TLS can verify")))?;
        let stream = self.connector.connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

fn builder(
    verifier: Arc<Verifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Failure> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(Code::Tls, error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = verifier;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn connector(mut config: ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config).into()
}

fn read_certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |what: String| {
        Failure::new(
            Code::ConfigValue,
            format!("{key}: {}: {what}", path.display()),
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
