//! What is trusted: the certificates the operating system trusts, and those of one file in addition.
//! A single service may be told to have other ones, or none at all.

mod witness;

pub use witness::{Shown, Witness};

use std::{fmt::Display, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, WebPkiSupportedAlgorithms, ring},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;

use crate::{
    config::{CertificateFiles, ServiceTls, Trust},
    explain::{Code, Failure},
    net::Stream,
};

/// Opens TLS with relay and services alike. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    verifier: Arc<dyn ServerCertVerifier>,
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
        Self::with_verifier(Arc::new(verifier))
    }

    /// What one service is spoken to with. `general` is for services that are trusted as the relay is.
    ///
    /// # Errors
    ///
    /// [`Code::ConfigValue`] if a file of the service cannot be used.
    pub fn of_service(
        destination: &str,
        service: &ServiceTls,
        general: Option<&Self>,
    ) -> Result<Option<Self>, Failure> {
        let table = format!("forward {destination}: ");
        let tls = match (&service.trust, general) {
            (Trust::System, None) => return Ok(None),
            (Trust::System, Some(general)) => general.clone(),
            (Trust::Only(path), _) => Self::only(&format!("{table}ca_file"), path)?,
            (Trust::Anybody, _) => Self::with_verifier(Arc::new(Unverified::default()))?,
        };
        match &service.client_certificate {
            Some(files) => tls.with_client_certificate(&table, files).map(Some),
            None => Ok(Some(tls)),
        }
    }

    /// Trusts the certificates of one file and no others.
    fn only(key: &str, path: &Path) -> Result<Self, Failure> {
        let unusable =
            |error: &dyn Display| Failure::new(Code::ConfigValue, format!("{key}: {error}"));
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(key, path)? {
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|error| unusable(&error))?;
        Self::with_verifier(verifier)
    }

    fn with_verifier(verifier: Arc<dyn ServerCertVerifier>) -> Result<Self, Failure> {
        let config = builder(verifier.clone())?.with_no_client_auth();
        Ok(Self {
            verifier,
            connector: connector(config),
        })
    }

    /// The same with a certificate that is shown to who asks for one. `table` is where its keys are.
    ///
    /// # Errors
    ///
    /// [`Code::ConfigValue`] if certificate or key are unusable, or do not belong together.
    pub fn with_client_certificate(
        &self,
        table: &str,
        files: &CertificateFiles,
    ) -> Result<Self, Failure> {
        let chain = read_certificates(&format!("{table}client_cert_file"), &files.certificate)?;
        let unusable = |error: &dyn Display| {
            let path = files.key.display();
            Failure::new(
                Code::ConfigValue,
                format!("{table}client_key_file: {path}: {error}"),
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

    /// The same with a witness of what servers show.
    pub fn watched(&self) -> (Self, Arc<Witness>) {
        let witness = Arc::new(Witness::new(self.verifier.clone()));
        let mut config = ClientConfig::clone(self.connector.config());
        config.dangerous().set_certificate_verifier(witness.clone());
        let watched = Self {
            verifier: witness.clone(),
            connector: Arc::new(config).into(),
        };
        (watched, witness)
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

/// Takes whatever certificate a service shows (`insecure = true`). Who holds its key is still checked,
/// which protects from nobody, but keeps broken servers from looking sound.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl Default for Unverified {
    fn default() -> Self {
        Self(ring::default_provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Failure> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(Code::Tls, error.to_string()))?;
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
