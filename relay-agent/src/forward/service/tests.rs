//! Calls of services that behave well, and of such that do not, over real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::{
    frame::ServiceFailure,
    id::DeliveryId,
    limits::{RESPONSE_BYTES_INITIAL, RESPONSE_START_BYTES_MAX},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config::{CertificateFiles, ServiceTls, Trust},
    forward::{PARTS_MAX, ResponsePart, Valve, read::RESPONSE_BYTES_MAX, respond},
    inbox::sample::{lane, offer},
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn service(lane: &Lane) -> Arc<Service> {
    let tls = match lane.target.is_tls() {
        true => Tls::of_service("ci", &lane.tls, None).unwrap(),
        false => None,
    };
    Arc::new(Service::new(lane, tls, AllowTargets::default()))
}

async fn call(service: &Arc<Service>) -> Result<Answer, CallError> {
    let attempt = Attempt {
        offer: Box::new(offer(1, 1)),
        body: EventBody::whole(Bytes::new()),
        service: service.clone(),
        timeout: service.timeout(),
        responder: None,
    };
    Box::new(attempt).call().await.result
}

/// Reads the head of a request, which has no body.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Answers every request of every connection with the same bytes, and counts connections.
async fn listen(answer: Vec<u8>, closes: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                while head(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() || closes {
                        return;
                    }
                }
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn connections_are_kept_between_calls() {
    let (url, connections) = listen(OK.to_vec(), false).await;
    let service = service(&lane(&url));
    for _ in 0..5 {
        assert_eq!(call(&service).await.unwrap().start, "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_died_fails_no_call() {
    // It promises to keep the connection, and closes it all the same.
    let (url, connections) = listen(OK.to_vec(), true).await;
    let service = service(&lane(&url));
    for _ in 0..20 {
        call(&service).await.unwrap();
        // Waiting for anything lets the runtime look at its sockets, which know the end already.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn what_was_sent_once_is_not_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(AtomicUsize::new(0));
    let counted = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The first request of a connection is answered; the second is read, and that is all.
            head(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
            head(&mut stream).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let service = service(&lane(&url));
    call(&service).await.unwrap();
    let error = call(&service).await.unwrap_err();
    assert_eq!(error.failure(), ServiceFailure::Broken);
    assert_eq!(heads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (elsewhere, visitors) = listen(OK.to_vec(), false).await;
    let redirect =
        format!("HTTP/1.1 307 Away\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
    let (url, _) = listen(redirect.into_bytes(), false).await;
    let answer = call(&service(&lane(&url))).await.unwrap();
    assert_eq!(answer.status, 307);
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_huge_answer_is_cut_and_its_start_is_kept() {
    let mut huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99000000\r\n\r\n".to_vec();
    huge.resize(huge.len() + 2 * RESPONSE_BYTES_MAX as usize, b'x');
    let (url, connections) = listen(huge, false).await;
    let service = service(&lane(&url));
    for _ in 0..2 {
        let answer = call(&service).await.unwrap();
        assert_eq!(answer.start.len(), RESPONSE_START_BYTES_MAX);
        assert!(answer.body_bytes > RESPONSE_BYTES_MAX);
        assert!(answer.body_bytes < RESPONSE_BYTES_MAX + 128 * 1024);
    }
    // What was cut is not used again.
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn endless_heads_end() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    for _ in 0..4096 {
        endless.extend(b"x-more: 0123456789012345678901234567890123456789\r\n");
    }
    let (url, _) = listen(endless, false).await;
    let error = call(&service(&lane(&url))).await.unwrap_err();
    assert_eq!(error.failure(), ServiceFailure::Protocol);
}

#[tokio::test]
async fn an_answer_that_trickles_ends_by_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut lane = lane(&format!("http://{}", listener.local_addr().unwrap()));
    lane.timeout = Duration::from_millis(300);
    let trickle = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(start).await.unwrap();
        // Always something new: only the whole is late.
        let mut moments = tokio::time::interval(Duration::from_millis(10));
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            moments.tick().await;
        }
    });
    let error = call(&service(&lane)).await.unwrap_err();
    assert_eq!(error.failure(), ServiceFailure::Timeout);
    // The service is not kept busy any longer.
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_called_like_any_service() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (sender, mut heads) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            while let Some(head) = head(&mut stream).await {
                sender.send(head).await.unwrap();
                stream.write_all(OK).await.unwrap();
            }
        }
    });
    let mut lane = lane(&format!("unix:{}:/hook", path.display()));
    for (host, expected) in [(None, "localhost"), (Some("app.corp:81"), "app.corp:81")] {
        lane.host = host.map(HeaderValue::from_static);
        assert_eq!(call(&service(&lane)).await.unwrap().status, 200);
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains(&format!("\r\nhost: {expected}\r\n")),
            "{head}"
        );
    }
    drop(heads);
    std::fs::remove_file(&path).unwrap();
    let error = call(&service(&lane)).await.unwrap_err();
    assert_eq!(error.failure(), ServiceFailure::Connect);
}

#[tokio::test]
async fn names_that_lead_to_metadata_services_are_not_called() {
    // Names to us; the system makes addresses of them.
    for host in ["2852039166", "169.254.43518", "0xa9fea9fe"] {
        let service = service(&lane(&format!("http://{host}/latest")));
        let error = call(&service).await.unwrap_err();
        assert_eq!(error.failure(), ServiceFailure::Refused, "{host}: {error}");
        assert!(error.to_string().contains("169.254.169.254"), "{error}");
    }
}

#[tokio::test]
async fn the_list_is_asked_about_the_address_behind_the_name() {
    let (url, connections) = listen(OK.to_vec(), false).await;
    let port = url.trim_end_matches("/hook").rsplit(':').next().unwrap();
    let lane = lane(&format!("http://2130706433:{port}"));
    for (list, is_called) in [("10.0.0.0/8", false), ("127.0.0.0/8", true)] {
        let allow = AllowTargets::parse(&[list]).unwrap();
        assert!(allow.check(&lane.target).is_ok());
        let service = Arc::new(Service::new(&lane, None, allow));
        assert_eq!(call(&service).await.is_ok(), is_called, "{list}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// An authority, and certificates of it, as files.
struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let directory = tempfile::tempdir().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(directory.path().join("ca.pem"), pem).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn certificate(&self, name: &str) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = CertificateFiles {
            certificate: self.directory.path().join(format!("{name}.pem")),
            key: self.directory.path().join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// A service with TLS; with `clients` it wants certificates of that authority.
async fn listen_tls(authority: &Authority, clients: Option<&Authority>) -> String {
    let files = authority.certificate("service");
    let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone());
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(clients.file()).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor.accept(stream).into_fallible().await {
                    Ok(mut stream) => serve(&mut stream).await,
                    // Hears the visitor out, so that no reset overtakes the alert.
                    Err((_, mut stream)) => {
                        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    }
                }
            });
        }
    });
    format!("https://localhost:{port}")
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    while head(stream).await.is_some() {
        if stream.write_all(OK).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn each_service_is_trusted_as_it_is_configured() {
    let (own, other) = (Authority::new(), Authority::new());
    let mut lane = lane(&listen_tls(&own, None).await);
    for (trust, is_called) in [
        (Trust::Only(own.file()), true),
        (Trust::Only(other.file()), false),
        (Trust::Anybody, true),
    ] {
        lane.tls.trust = trust.clone();
        match call(&service(&lane)).await {
            Ok(_) => assert!(is_called, "{trust:?}"),
            Err(error) => {
                assert!(!is_called, "{trust:?}: {error}");
                assert_eq!(error.failure(), ServiceFailure::Tls);
            }
        }
    }
    // What is trusted as the relay is, is not trusted because another service is.
    let general = Tls::new(Some(&other.file())).unwrap();
    lane.tls.trust = Trust::System;
    let tls = Tls::of_service("ci", &lane.tls, Some(&general)).unwrap();
    let service = Arc::new(Service::new(&lane, tls, AllowTargets::default()));
    let error = call(&service).await.unwrap_err();
    assert_eq!(error.failure(), ServiceFailure::Tls);
}

#[tokio::test]
async fn a_service_that_wants_a_certificate_is_shown_one() {
    let (own, clients) = (Authority::new(), Authority::new());
    let mut lane = lane(&listen_tls(&own, Some(&clients)).await);
    lane.tls.trust = Trust::Only(own.file());
    for shown in [None, Some(own.certificate("stranger"))] {
        lane.tls.client_certificate = shown;
        let error = call(&service(&lane)).await.unwrap_err();
        assert_eq!(error.failure(), ServiceFailure::Tls, "{error}");
    }

    lane.tls.client_certificate = Some(clients.certificate("agent"));
    assert_eq!(call(&service(&lane)).await.unwrap().status, 200);
}

#[test]
fn unusable_files_name_destination_and_key() {
    let own = Authority::new();
    let missing = || "/nowhere.pem".into();
    let pair = |certificate, key| Some(CertificateFiles { certificate, key });
    let good = own.certificate("agent");
    for (trust, client_certificate, key) in [
        (Trust::Only(missing()), None, "forward ci: ca_file"),
        (
            Trust::Only(own.file()),
            pair(missing(), good.key.clone()),
            "forward ci: client_cert_file",
        ),
        (
            Trust::Anybody,
            pair(good.certificate.clone(), own.file()),
            "forward ci: client_key_file",
        ),
    ] {
        let tls = ServiceTls {
            trust,
            client_certificate,
        };
        let failure = Tls::of_service("ci", &tls, None).unwrap_err();
        assert!(failure.what.starts_with(key), "{failure}");
    }
}

/// A call whose response somebody waits for, with what comes of it.
fn answering(
    service: &Arc<Service>,
    timeout: Duration,
) -> (
    Valve,
    tokio::sync::mpsc::Receiver<ResponsePart>,
    tokio::task::JoinHandle<Outcome>,
) {
    let (parts, received) = tokio::sync::mpsc::channel(PARTS_MAX);
    let (valve, responder) = respond(DeliveryId::from_u128(1), 1, parts);
    let attempt = Attempt {
        offer: Box::new(offer(1, 1)),
        body: EventBody::whole(Bytes::new()),
        service: service.clone(),
        timeout,
        responder: Some(responder),
    };
    (valve, received, tokio::spawn(Box::new(attempt).call()))
}

fn large(bytes: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 201 Created\r\nx-own: 1\r\nconnection: x-hop\r\nx-hop: 1\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: {bytes}\r\n\r\n"
    );
    let body = (0..bytes).map(|at| (at / 100) as u8);
    head.into_bytes().into_iter().chain(body).collect()
}

#[tokio::test]
async fn a_response_that_is_waited_for_is_passed_back_whole() {
    let size = 3_000_000;
    let (url, _) = listen(large(size), false).await;
    let service = service(&lane(&url));
    let (valve, mut parts, call) = answering(&service, Duration::from_secs(10));
    let (mut body, mut heads, mut last) = (Vec::new(), Vec::new(), false);
    while let Some(part) = parts.recv().await {
        assert!(!last, "nothing follows the end");
        heads.extend(part.head);
        body.extend(part.bytes);
        last = part.is_last;
        valve.open_to(body.len() as u64 + RESPONSE_BYTES_INITIAL);
    }
    let answer = call.await.unwrap().result.unwrap();
    assert!(last && body == large(size)[large(size).len() - size..]);
    assert_eq!(
        (answer.status.as_u16(), answer.body_bytes),
        (201, size as u64)
    );
    assert_eq!(answer.start.len(), RESPONSE_START_BYTES_MAX);
    let [head] = heads.as_slice() else {
        panic!("{heads:?}")
    };
    let cookies: Vec<_> = head.headers.get_all("set-cookie").collect();
    assert_eq!((head.status, cookies), (201, vec![&b"a"[..], b"b"]));
    assert!(head.headers.get("x-own").is_some() && head.headers.get("x-hop").is_none());
}

#[tokio::test]
async fn waiting_for_the_provider_does_not_count_as_the_services_time() {
    let (url, _) = listen(large(500_000), false).await;
    let service = service(&lane(&url));
    let (valve, mut parts, call) = answering(&service, Duration::from_millis(400));
    let mut bytes = 0;
    while bytes < RESPONSE_BYTES_INITIAL {
        bytes += parts.recv().await.unwrap().bytes.len() as u64;
    }
    let more = tokio::time::timeout(Duration::from_millis(600), parts.recv()).await;
    assert!(more.is_err() && !call.is_finished(), "it waits");
    valve.open_to(u64::MAX);
    while let Some(part) = parts.recv().await {
        bytes += part.bytes.len() as u64;
    }
    assert_eq!(bytes, 500_000);
    assert!(call.await.unwrap().result.is_ok());
}

#[tokio::test]
async fn a_call_goes_on_when_nobody_waits_any_more() {
    let (url, _) = listen(large(500_000), false).await;
    let service = service(&lane(&url));
    let (valve, parts, call) = answering(&service, Duration::from_secs(10));
    drop((valve, parts));
    let answer = call.await.unwrap().result.unwrap();
    assert_eq!(answer.body_bytes, 500_000);
}

#[tokio::test]
async fn a_response_that_breaks_off_has_no_end() {
    let mut cut = large(500_000);
    cut.truncate(200_000);
    let (url, _) = listen(cut, true).await;
    let service = service(&lane(&url));
    let (valve, mut parts, call) = answering(&service, Duration::from_secs(10));
    valve.open_to(u64::MAX);
    while let Some(part) = parts.recv().await {
        assert!(!part.is_last);
    }
    let error = call.await.unwrap().result.unwrap_err();
    assert_eq!(error.failure(), ServiceFailure::Broken);
}
