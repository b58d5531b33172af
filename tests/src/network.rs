//! The network between an agent and a relay, as a TCP proxy that can fail.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Carries everything.
    Up,
    /// Ends every connection at once, also new ones.
    Cut,
    /// Carries nothing and says nothing; connections seem to live.
    Silent,
}

/// A network with a place of its own in front of a relay.
pub struct Network {
    addr: SocketAddr,
    state: Arc<watch::Sender<State>>,
    acceptor: JoinHandle<()>,
}

impl Network {
    /// A network that works, in front of `relay`.
    pub async fn start(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State::Up));
        let acceptor = tokio::spawn(accept(listener, relay, Arc::clone(&state)));
        Self {
            addr,
            state,
            acceptor,
        }
    }

    /// What an agent connects to.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends every connection, also new ones, until it is restored.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Loses everything without a word, until it is restored. What was lost stays lost.
    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Works again for new connections; those that were cut or silenced are gone.
    pub fn restore(&self) {
        self.state.send_replace(State::Up);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, relay: SocketAddr, state: Arc<watch::Sender<State>>) {
    loop {
        let (agent, _) = listener.accept().await.unwrap();
        let state = state.subscribe();
        tokio::spawn(async move {
            if *state.borrow() == State::Cut {
                return;
            }
            let Ok(relay) = TcpStream::connect(relay).await else {
                return;
            };
            let ((agent_in, agent_out), (relay_in, relay_out)) =
                (agent.into_split(), relay.into_split());
            tokio::select! {
                () = carry(agent_in, relay_out, state.clone()) => {}
                () = carry(relay_in, agent_out, state) => {}
            }
        });
    }
}

/// Carries one direction until an end closes or the network is cut.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = *state.borrow_and_update();
        match now {
            State::Up => {}
            State::Cut => return,
            State::Silent => {
                // Whatever was silenced once has lost bytes and can never be whole again.
                if state
                    .wait_for(|state| *state != State::Silent)
                    .await
                    .is_err()
                {
                    return;
                }
                return;
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return };
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
