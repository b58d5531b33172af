//! Fetching over real TLS, from a server that stands for every provider.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::verify::keys::tests::url;

/// What a provider publishes: a raw Ed25519 key in hex.
const KEY: &str = "abababababababababababababababababababababababababababababababab";

/// A server that stands for a provider.
pub(crate) struct Provider {
    addr: SocketAddr,
    client: ClientConfig,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    /// A provider with a certificate for these names that always gives this answer.
    pub(crate) async fn start(names: &[&str], status: StatusCode, body: &'static str) -> Self {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let answer = |_: Request<Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let mut response =
                        Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                    *response.status_mut() = status;
                    let target = http::HeaderValue::from_static("https://elsewhere.test/");
                    response
                        .headers_mut()
                        .insert(http::header::LOCATION, target);
                    async { Ok::<_, std::convert::Infallible>(response) }
                };
                let serving = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                let _ = serving.await;
            }
        });
        Self {
            addr,
            client,
            asked,
        }
    }

    async fn sns(status: StatusCode, body: &'static str) -> Self {
        Self::start(&["sns.us-east-1.amazonaws.com"], status, body).await
    }

    /// How many requests it has seen.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn network(&self) -> Network {
        Network::of_test(self.client.clone(), self.addr)
    }

    /// The relay's side, with its task running.
    pub(crate) fn outbound(&self) -> Arc<Outbound> {
        let (outbound, errands) = Outbound::new(PreloadedKeys::default(), self.network());
        tokio::spawn(errands.run(CancellationToken::new()));
        outbound
    }
}

#[tokio::test]
async fn a_missing_key_is_fetched_once_for_all_who_wait() {
    let provider = Provider::sns(StatusCode::OK, KEY).await;
    let outbound = provider.outbound();
    let url = url(1);

    let (first, second) = tokio::join!(outbound.obtain(&url), outbound.obtain(&url));

    assert!(first && second && outbound.obtain(&url).await);
    assert_eq!(outbound.keys(&url).unwrap().len(), 1);
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn answers_that_are_no_keys_are_refused_and_remembered() {
    let too_long: &'static str = "x".repeat(256 * 1024 + 1).leak();
    for (status, body) in [
        (StatusCode::OK, "no key"),
        (StatusCode::OK, too_long),
        (StatusCode::NOT_FOUND, KEY),
        (StatusCode::FOUND, KEY),
    ] {
        let provider = Provider::sns(status, body).await;
        let outbound = provider.outbound();
        assert!(!outbound.obtain(&url(1)).await, "{status}");
        assert!(!outbound.obtain(&url(1)).await, "{status}");
        assert_eq!(provider.asked(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_believed() {
    let provider = Provider::start(&["evil.test"], StatusCode::OK, KEY).await;
    assert!(!provider.outbound().obtain(&url(1)).await);
    assert_eq!(provider.asked(), 0);
}

#[tokio::test]
async fn names_in_a_private_network_are_not_visited() {
    let provider = Provider::sns(StatusCode::OK, KEY).await;
    let mut network = provider.network();
    network.everywhere = None;
    let error = network.get("https://localhost/x.pem").await.unwrap_err();
    assert!(matches!(error, FetchError::PrivateAddress(_)), "{error}");
    for wrong in ["http://a.test/", "https://a.test:8443/", "nonsense"] {
        let error = network.get(wrong).await.unwrap_err();
        assert!(matches!(error, FetchError::Url), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn preloaded_keys_need_no_network() {
    let mut keys = PreloadedKeys::default();
    keys.insert(url(1).as_str(), PublicKey::parse(KEY).unwrap());
    let (outbound, _errands) = Outbound::new(keys, Network::nowhere());
    assert!(outbound.keys(&url(1)).is_some());
    assert!(outbound.keys(&url(2)).is_none());
}

#[tokio::test]
async fn what_nobody_can_fetch_is_not_waited_for() {
    let outbound = Outbound::idle();
    assert!(!outbound.obtain(&url(1)).await);
    assert!(!outbound.confirm(SourceId::from_u128(1), "https://a.test/".to_owned()));
}

#[tokio::test]
async fn a_subscription_is_confirmed_by_asking_once() {
    let provider = Provider::sns(StatusCode::OK, "<ok/>").await;
    let outbound = provider.outbound();
    let url = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=x";
    assert!(outbound.confirm(SourceId::from_u128(1), url.to_owned()));
    let asked = async {
        while provider.asked() == 0 {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(Duration::from_secs(20), asked).await.unwrap();
}
