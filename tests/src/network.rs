//! The network between an agent and what it dials, as a TCP proxy that can fail.
//!
//! It shows what a stream shows of a bad network: delay, little bandwidth, resets, ends in the middle
//! of a frame, silence. What packets suffer (loss, reordering) looks like delay from up here.

mod connection;

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use connection::Connection;

/// Connections that wait to be accepted. A short queue is soon full: then the system ignores who
/// connects, as a black hole would.
const QUEUE: u32 = 8;

/// How soon a system answers that has room for a connection.
const ANSWER: Duration = Duration::from_millis(200);

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Carries everything.
    Up,
    /// Ends every new connection at once.
    Cut,
    /// Answers no new connection, as if every packet were lost.
    BlackHole,
    /// Accepts new connections and carries nothing.
    Swallows,
}

/// The state now, and what became of the connections that were there before.
#[derive(Debug, Clone, Copy)]
struct Weather {
    state: State,
    /// Grows when connections die, so that one can tell which; they are not whole again afterwards.
    era: u64,
    death: Death,
    faults: Faults,
}

/// What becomes of connections that are there when something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Both ends are told.
    Told,
    /// Nobody is told: what is sent vanishes.
    Silent,
    /// The same, but a middlebox sends the agent WebSocket pings and pongs as if all were well.
    Feigned,
}

/// What every connection suffers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// On the way to the relay.
    pub to_relay: Lane,
    /// On the way to the agent.
    pub to_agent: Lane,
    /// Ends after so many bytes of either way, by chance: with a reset or in order, wherever that is.
    pub ends_after_bytes: Option<(u64, u64)>,
}

/// What one direction suffers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lane {
    /// How long everything takes.
    pub delay: Duration,
    /// How much longer it takes at most, by chance.
    pub jitter: Duration,
    /// How much goes through.
    pub bytes_per_s: Option<u32>,
}

impl Faults {
    /// The same for both directions.
    pub fn both(lane: Lane) -> Self {
        Self {
            to_relay: lane,
            to_agent: lane,
            ends_after_bytes: None,
        }
    }

    /// Connections end after so many bytes, by chance.
    #[must_use]
    pub fn ending_after(mut self, bytes: Range<u64>) -> Self {
        self.ends_after_bytes = Some((bytes.start, bytes.end));
        self
    }
}

/// A network with a place of its own in front of a relay, or of a proxy that leads there.
pub struct Network {
    addr: SocketAddr,
    weather: watch::Sender<Weather>,
    acceptor: JoinHandle<()>,
}

impl Network {
    /// A network that works.
    pub async fn start(to: SocketAddr) -> Self {
        Self::rough(to, Faults::default(), StdRng::seed_from_u64(0)).await
    }

    /// A network that makes connections suffer, each in a way of its own that `random` decides.
    pub async fn rough(to: SocketAddr, faults: Faults, random: StdRng) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(QUEUE).unwrap();
        let addr = listener.local_addr().unwrap();
        let weather = Weather {
            state: State::Up,
            era: 0,
            death: Death::Told,
            faults,
        };
        let weather = watch::Sender::new(weather);
        let acceptor = tokio::spawn(accept(listener, to, weather.subscribe(), random));
        Self {
            addr,
            weather,
            acceptor,
        }
    }

    /// What an agent connects to.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends every connection, also new ones, until it is restored.
    pub fn cut(&self) {
        self.change(State::Cut, Death::Told);
    }

    /// Loses everything without a word, until it is restored. What was lost stays lost.
    pub fn black_hole(&self) {
        self.change(State::BlackHole, Death::Silent);
    }

    /// The same, but new connections seem to be made, as by a middlebox with nothing behind it.
    pub fn swallow(&self) {
        self.change(State::Swallows, Death::Silent);
    }

    /// Loses what is there, while a middlebox keeps it alive with pings and pongs of its own. New
    /// connections work.
    pub fn feign(&self) {
        self.change(State::Up, Death::Feigned);
    }

    /// Works again for new connections; those that were cut or lost are gone.
    pub fn restore(&self) {
        self.weather
            .send_modify(|weather| weather.state = State::Up);
    }

    fn change(&self, state: State, death: Death) {
        self.weather.send_modify(|weather| {
            weather.state = state;
            weather.death = death;
            weather.era += 1;
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    mut random: StdRng,
) {
    let addr = listener.local_addr().unwrap();
    loop {
        if weather.borrow_and_update().state == State::BlackHole {
            let crowd = crowd(addr).await;
            let ended = weather.wait_for(|now| now.state != State::BlackHole).await;
            if ended.is_err() {
                return;
            }
            drop(crowd);
        }
        let agent = tokio::select! {
            changed = weather.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let random = StdRng::seed_from_u64(random.random());
        let now = *weather.borrow();
        let lives = weather.clone();
        match now.state {
            State::Cut => {}
            State::BlackHole | State::Swallows => {
                tokio::spawn(connection::swallow(agent, lives));
            }
            State::Up => {
                tokio::spawn(async move {
                    if let Ok(relay) = TcpStream::connect(to).await {
                        Connection::new(agent, relay, now, random).run(lives).await;
                    }
                });
            }
        }
    }
}

/// Fills the queue of those who wait to be accepted.
async fn crowd(addr: SocketAddr) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    while let Ok(Ok(stream)) = timeout(ANSWER, TcpStream::connect(addr)).await {
        crowd.push(stream);
    }
    crowd
}

#[cfg(test)]
mod tests;
