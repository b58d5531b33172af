//! Proxies and middleboxes as they stand between agents and relays, each as simple as it can be.

mod middlebox;

mod socks;

mod tunnel;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificate::Certificate;

/// A proxy on a port of its own.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

/// What it does with a connection.
enum Manner {
    /// HTTP CONNECT; with this value of Proxy-Authorization if one is wanted.
    Connect(Option<String>),
    /// The same, reading along: TLS ends here and begins anew.
    Intercept(TlsAcceptor, TlsConnector),
    /// SOCKS5 without a password.
    Socks5,
    /// Stands before the relay and passes requests on, one after the other and whole.
    Middlebox(SocketAddr, Upgrades),
}

/// What a middlebox does when a WebSocket is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrades {
    /// Answers with this status.
    Refused(u16),
    /// Hangs up.
    Dropped,
    /// Passes the request on without the fields that ask for it.
    Stripped,
    /// Passes the request on and waits for the end of the answer, which never comes.
    Awaited,
}

struct Shared {
    manner: Manner,
    passed: AtomicUsize,
    refused: AtomicUsize,
}

impl Proxy {
    /// HTTP CONNECT.
    pub async fn connect() -> Self {
        Self::start(Manner::Connect(None)).await
    }

    /// HTTP CONNECT for those who know this password.
    pub async fn connect_with(user: &str, password: &str) -> Self {
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Self::start(Manner::Connect(Some(basic))).await
    }

    /// HTTP CONNECT that shows `own` in place of what the relay shows, whose authority it trusts.
    pub async fn intercepting(own: &Certificate, relay: &Certificate) -> Self {
        let accept = TlsAcceptor::from(own.server_config(None));
        let connect = TlsConnector::from(relay.trusting_client());
        Self::start(Manner::Intercept(accept, connect)).await
    }

    /// SOCKS5.
    pub async fn socks5() -> Self {
        Self::start(Manner::Socks5).await
    }

    /// A middlebox before the relay, through which no WebSocket gets and no answer that does not end.
    pub async fn middlebox(relay: SocketAddr, upgrades: Upgrades) -> Self {
        Self::start(Manner::Middlebox(relay, upgrades)).await
    }

    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manner,
            passed: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            acceptor,
        }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many tunnels, or requests if it reads them, it has let through.
    pub fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// How many it has refused.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Shared {
    fn pass(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    async fn serve(&self, agent: TcpStream) -> io::Result<()> {
        agent.set_nodelay(true)?;
        match &self.manner {
            Manner::Connect(password) => tunnel::connect(self, password.as_deref(), agent).await,
            Manner::Intercept(accept, connect) => {
                tunnel::intercept(self, accept, connect, agent).await
            }
            Manner::Socks5 => socks::serve(self, agent).await,
            Manner::Middlebox(relay, upgrades) => {
                middlebox::serve(self, *relay, *upgrades, agent).await
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (agent, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        // A peer that vanishes is part of many tests.
        tokio::spawn(async move { shared.serve(agent).await });
    }
}
