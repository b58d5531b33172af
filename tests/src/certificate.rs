//! Certificates for a relay that speaks TLS.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// A certificate for `localhost`, with the authority that signed it.
#[derive(Debug, Clone)]
pub struct Certificate {
    authority: String,
    chain: String,
    key: String,
}

impl Certificate {
    /// Makes an authority and has it sign a certificate.
    pub fn generate() -> Self {
        Self::with(|_| {})
    }

    /// The same with a certificate whose time is over.
    pub fn expired() -> Self {
        Self::with(|certificate| {
            certificate.not_before = rcgen::date_time_ymd(2020, 1, 1);
            certificate.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut certificate = CertificateParams::new(names).unwrap();
        change(&mut certificate);
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        Self {
            authority: authority_pem,
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// What to trust, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Writes chain and key into a directory.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (chain, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        fs::write(&chain, &self.chain).unwrap();
        fs::write(&key, &self.key).unwrap();
        (chain, key)
    }

    /// A server with this certificate; with `clients` it wants one of that authority.
    pub fn server_config(&self, clients: Option<&Self>) -> Arc<ServerConfig> {
        let chain = vec![CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    /// A client that trusts only this authority.
    pub fn trusting_client(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        Arc::new(
            config
                .with_root_certificates(self.roots())
                .with_no_client_auth(),
        )
    }
}
