//! Remembers which certificates a server showed, whatever was thought of them. For `doctor`: what is
//! accepted stays as it is.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Most certificates of one chain that are kept.
const CHAIN_MAX: usize = 16;

/// Verifies as another verifier does, and remembers what it was asked about.
#[derive(Debug)]
pub struct Witness {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Mutex<Option<Shown>>,
}

/// The certificates that a server showed.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its own first, then those that lead to its CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The name it was called by.
    name: ServerName<'static>,
}

impl Witness {
    pub(super) fn new(inner: Arc<dyn ServerCertVerifier>) -> Self {
        Self {
            inner,
            seen: Mutex::new(None),
        }
    }

    /// What was shown last.
    pub fn shown(&self) -> Option<Shown> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

impl Shown {
    /// Whether a public CA vouches for the certificate: one of those that browsers trust, as this
    /// program was built. Nothing if another mistake hides the answer.
    pub fn is_public(&self) -> Option<bool> {
        let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .ok()?;
        let (own, others) = self.chain.split_first()?;
        match verifier.verify_server_cert(own, others, &self.name, &[], UnixTime::now()) {
            Ok(_) => Some(true),
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => Some(false),
            Err(_) => None,
        }
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(certificate).chain(intermediates);
        let shown = Shown {
            chain: chain
                .take(CHAIN_MAX)
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            name: name.to_owned(),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        let inner = &self.inner;
        inner.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
