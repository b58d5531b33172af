//! What stands in the way, and what people are told about it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config::{CertificateFiles, ProxyConfig, ProxyOrigin, Token, Transport},
    explain::{Code, Failure},
    link::proxy::sample::{PASSWORD, SampleProxy, USER_INFO},
};

fn config(server: &str, proxy: Option<(&str, ProxyOrigin)>) -> LinkConfig {
    LinkConfig {
        server: server.parse().unwrap(),
        token: Token::parse("hf_agent_test").unwrap(),
        name: "test".to_owned(),
        proxy: proxy.map(|(url, origin)| ProxyConfig {
            proxy: url.parse().unwrap(),
            origin,
        }),
        client_certificate: None,
        transport: Transport::Auto,
    }
}

/// Fails to dial, and shows nothing secret.
async fn fails(mut dialer: Dialer, upgrade_max: Duration) -> Failure {
    dialer.upgrade_max = upgrade_max;
    let dialer = Arc::new(dialer);
    let plan = Plan::Only(Carrier::WebSocket);
    let error = dialer.clone().dial(plan).await.err().unwrap();
    let failure = error.failure().during(dialer.way());
    for shown in [
        failure.to_string(),
        error.to_string(),
        format!("{error:?} {dialer:?}"),
    ] {
        for secret in [PASSWORD, "sEcret", "hf_agent_test"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    failure
}

fn says(failure: &Failure, code: Code, parts: &[&str]) {
    let shown = failure.to_string();
    assert_eq!(failure.code, code, "{shown}");
    for part in parts {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
}

const ENOUGH: Duration = Duration::from_secs(60);
const VARIABLE: ProxyOrigin = ProxyOrigin::Variable("HTTPS_PROXY");

async fn answered(scheme: &str, answer: &'static [u8], origin: ProxyOrigin) -> Failure {
    let mut proxy = SampleProxy::answering(Some(answer)).await;
    let url = format!("{scheme}://{USER_INFO}@{}", proxy.address);
    let config = config("wss://relay.test", Some((&url, origin)));
    let failure = fails(Dialer::new(config, None, None), ENOUGH).await;
    if scheme == "http" {
        let head = proxy.asked().await;
        assert!(
            head.starts_with("CONNECT relay.test:443 HTTP/1.1\r\nhost: relay.test:443\r\n"),
            "{head}"
        );
    }
    failure
}

#[tokio::test]
async fn what_proxies_answer_instead() {
    let denied = answered("http", b"HTTP/1.1 403 No\r\n\r\n<html>", VARIABLE).await;
    let parts = [
        "403 Forbidden",
        "CONNECT to relay.test",
        "NO_PROXY=relay.test",
    ];
    says(&denied, Code::ProxyRefused, &parts);
    let unreachable = answered("http", b"HTTP/1.1 502 Bad\r\n\r\n", ProxyOrigin::File).await;
    says(&unreachable, Code::ProxyRefused, &["502", "no_proxy"]);
    let closed = answered("http", b"", ProxyOrigin::Flag).await;
    says(&closed, Code::Proxy, &["--proxy off"]);
    let odd = answered("http", b"SSH-2.0-OpenSSH\r\n", VARIABLE).await;
    says(&odd, Code::Proxy, &["check HTTPS_PROXY"]);
    let eager = answered("http", b"HTTP/1.1 200 OK\r\n\r\nhello", VARIABLE).await;
    says(&eager, Code::Proxy, &["data of its own"]);

    let forbidden = answered("socks5h", b"\x05\0\x05\x02\0\x01", VARIABLE).await;
    says(
        &forbidden,
        Code::ProxyRefused,
        &["not allowed by its rules"],
    );
    let http = answered("socks5h", b"HTTP/1.1 400 Bad Request\r\n\r\n", VARIABLE).await;
    says(&http, Code::Proxy, &["does not speak SOCKS5"]);
    let cut = answered("socks5h", b"\x05", VARIABLE).await;
    says(&cut, Code::Proxy, &["closed the connection"]);
}

#[tokio::test]
async fn a_proxy_that_wants_to_know_who_asks() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let proxy = SampleProxy::http(nowhere, None).await;
    let url = format!("http://{}", proxy.address);
    let unknown = config("wss://relay.test", Some((&url, VARIABLE)));
    let failure = fails(Dialer::new(unknown, None, None), ENOUGH).await;
    let fix = format!(
        "fix: set HTTPS_PROXY=http://USER:PASSWORD@{}, or NO_PROXY=relay.test\n",
        proxy.address
    );
    let parts = [
        "wants a user name and password (407: Basic, Negotiate)",
        &fix,
    ];
    says(&failure, Code::ProxyAuth, &parts);

    let url = format!("http://u:sEcret@{}", proxy.address);
    let wrong = config("wss://relay.test", Some((&url, ProxyOrigin::File)));
    let failure = fails(Dialer::new(wrong, None, None), ENOUGH).await;
    let parts = ["does not accept", "[proxy] url", "password_file"];
    says(&failure, Code::ProxyAuth, &parts);

    let ntlm = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: NTLM\r\n\r\n";
    let failure = answered("http", ntlm, VARIABLE).await;
    says(&failure, Code::ProxyAuth, &["speaks NTLM", "px or cntlm"]);

    let proxy = SampleProxy::socks(nowhere).await;
    for (user_info, part) in [("", "wants a user"), ("u:sEcret@", "does not accept")] {
        let url = format!("socks5h://{user_info}{}", proxy.address);
        let config = config("wss://relay.test", Some((&url, VARIABLE)));
        let failure = fails(Dialer::new(config, None, None), ENOUGH).await;
        says(&failure, Code::ProxyAuth, &[part]);
    }
}

#[tokio::test]
async fn proxies_that_are_not_there_or_say_nothing() {
    let silent = SampleProxy::answering(None).await;
    for scheme in ["http", "socks5h"] {
        let url = format!("{scheme}://{USER_INFO}@{}", silent.address);
        let config = config("wss://relay.test", Some((&url, VARIABLE)));
        let dialer = Dialer::new(config, None, None);
        let failure = fails(dialer, Duration::from_millis(200));
        // Far more than it takes, and less than it would take with another limit.
        let failure = timeout(Duration::from_secs(5), failure).await.unwrap();
        says(&failure, Code::Proxy, &["did not answer"]);
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let config = config("wss://relay.test", Some((&url, VARIABLE)));
    let failure = fails(Dialer::new(config, None, None), ENOUGH).await;
    says(
        &failure,
        Code::Proxy,
        &[&url, "refused", "check HTTPS_PROXY"],
    );
}

/// A CA of a test, and what it signed.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn file(&self) -> tempfile::NamedTempFile {
        file(&self.pem)
    }

    /// Certificate and key for a name.
    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server with a certificate for `name`, which asks clients for one if `asks`.
    fn server(&self, name: &str, asks: bool) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks {
            let mut roots = rustls::RootCertStore::empty();
            let authority = rustls_pki_types::CertificateDer::from_pem_slice(self.pem.as_bytes());
            roots.add(authority.unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.sign(name);
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.unwrap()).into()
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// Accepts TLS once, and tells the name it was called by and whether it saw a certificate; then
/// hangs up.
async fn tls_server(tls: TlsAcceptor) -> (SocketAddr, tokio::task::JoinHandle<(String, bool)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = tls.accept(stream).await else {
            return (String::new(), false);
        };
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let session = stream.get_ref().1;
        let name = session.server_name().unwrap_or_default().to_owned();
        (name, session.peer_certificates().is_some())
    });
    (address, task)
}

#[tokio::test]
async fn a_proxy_over_tls_and_the_relay_behind_are_each_called_by_their_name() {
    let authority = Authority::new("ours");
    let ca_file = authority.file();
    let tls = Tls::new(Some(ca_file.path())).unwrap();
    let (certificate, key) = authority.sign("agent.test");
    let (certificate, key) = (file(&certificate.pem()), file(&key.serialize_pem()));
    let shown = tls.with_client_certificate(
        "tls.",
        &CertificateFiles {
            certificate: certificate.path().to_owned(),
            key: key.path().to_owned(),
        },
    );

    let (relay, seen) = tls_server(authority.server("relay.test", true)).await;
    let mut proxy = SampleProxy::http(relay, Some(authority.server("localhost", false))).await;
    let url = format!("https://{USER_INFO}@localhost:{}", proxy.address.port());
    let config = config("wss://relay.test", Some((&url, VARIABLE)));
    let dialer = Dialer::new(config, Some(shown.unwrap()), Some(tls));

    // This relay hangs up when it has seen enough.
    let failure = fails(dialer, ENOUGH).await;
    assert!(
        !matches!(failure.code, Code::Tls | Code::Proxy),
        "{failure}"
    );
    assert_eq!(proxy.asked().await, "CONNECT relay.test:443 HTTP/1.1");
    assert_eq!(seen.await.unwrap(), ("relay.test".to_owned(), true));
}

#[tokio::test]
async fn certificates_that_are_not_accepted() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let ca_file = ours.file();
    let tls = || Tls::new(Some(ca_file.path())).unwrap();
    let cases = [
        (theirs.server("localhost", false), Code::TlsIssuer),
        (ours.server("other.test", false), Code::TlsName),
    ];
    for (server, code) in cases {
        let (address, _seen) = tls_server(server).await;
        let config = config(&format!("wss://localhost:{}", address.port()), None);
        let failure = fails(Dialer::new(config, Some(tls()), None), ENOUGH).await;
        says(&failure, code, &[code.fix()]);
    }

    let nowhere = "127.0.0.1:1".parse().unwrap();
    let proxy = SampleProxy::http(nowhere, Some(theirs.server("localhost", false))).await;
    let url = format!("https://{USER_INFO}@localhost:{}", proxy.address.port());
    let config = config("wss://relay.test", Some((&url, VARIABLE)));
    let failure = fails(Dialer::new(config, Some(tls()), Some(tls())), ENOUGH).await;
    says(&failure, Code::Proxy, &["TLS failed", "--ca-file"]);
}
