//! One connection through the network, from its beginning to its end.

use std::{io, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, interval, sleep_until},
};

use super::{Death, Lane, Weather};

/// How much one read takes, and how many reads are on their way at a time.
const READ_BYTES: usize = 16 * 1024;
const ON_THE_WAY_MAX: usize = 64;

/// How often a middlebox pretends that all is well.
const FEIGNED_EVERY: Duration = Duration::from_millis(500);

/// A ping and a pong of WebSocket, without payload.
const PING_AND_PONG: [u8; 4] = [0x89, 0, 0x8a, 0];

/// A connection that works until something happens.
pub(super) struct Connection {
    agent: TcpStream,
    relay: TcpStream,
    weather: Weather,
    random: StdRng,
}

/// How a connection ended.
enum End {
    /// One end closed it, or a fault.
    Closed,
    /// A fault.
    Reset,
    /// Something happened to the network.
    Died(Death),
}

impl Connection {
    pub(super) fn new(
        agent: TcpStream,
        relay: TcpStream,
        weather: Weather,
        random: StdRng,
    ) -> Self {
        Self {
            agent,
            relay,
            weather,
            random,
        }
    }

    pub(super) async fn run(mut self, weather: watch::Receiver<Weather>) {
        let (faults, era) = (self.weather.faults, self.weather.era);
        for stream in [&self.agent, &self.relay] {
            let _ = stream.set_nodelay(true);
        }
        let mut carry = |from, to, lane| {
            let left_bytes = match faults.ends_after_bytes {
                Some((least, most)) => self.random.random_range(least..most),
                None => u64::MAX,
            };
            let random = StdRng::seed_from_u64(self.random.random());
            Carrier {
                lane,
                left_bytes,
                random,
            }
            .carry(from, to)
        };
        let (agent_in, agent_out) = self.agent.split();
        let (relay_in, relay_out) = self.relay.split();
        let up = carry(agent_in, relay_out, faults.to_relay);
        let down = carry(relay_in, agent_out, faults.to_agent);
        let end = tokio::select! {
            death = death(weather.clone(), era) => End::Died(death),
            end = up => end,
            end = down => end,
        };
        match end {
            End::Closed | End::Died(Death::Told) => {}
            End::Reset => {
                for stream in [&self.agent, &self.relay] {
                    let _ = stream.set_zero_linger();
                }
            }
            End::Died(Death::Silent) => {
                tokio::join!(
                    swallow(self.agent, weather.clone()),
                    swallow(self.relay, weather)
                );
            }
            End::Died(Death::Feigned) => {
                tokio::join!(feign(self.agent), swallow(self.relay, weather));
            }
        }
    }
}

/// Ends when connections of that era die.
async fn death(mut weather: watch::Receiver<Weather>, era: u64) -> Death {
    match weather.wait_for(|now| now.era != era).await {
        Ok(now) => now.death,
        Err(_) => Death::Told,
    }
}

/// Takes what one end sends, tells neither end anything, and is gone when the network is.
pub(super) async fn swallow(mut stream: TcpStream, mut weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; READ_BYTES];
    let swallowing = async {
        while let Ok(1..) = stream.read(&mut buffer).await {}
        std::future::pending::<()>().await;
    };
    let gone = async { while weather.changed().await.is_ok() {} };
    tokio::select! {
        () = swallowing => {}
        () = gone => {}
    }
}

/// The same, with signs of life that mean nothing.
async fn feign(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let mut buffer = vec![0; READ_BYTES];
    let swallowing = async { while let Ok(1..) = from.read(&mut buffer).await {} };
    let feigning = async {
        let mut clock = interval(FEIGNED_EVERY);
        while to.write_all(&PING_AND_PONG).await.is_ok() {
            clock.tick().await;
        }
    };
    tokio::select! {
        () = swallowing => {}
        () = feigning => {}
    }
}

/// Carries one direction.
struct Carrier {
    lane: Lane,
    /// How much it carries before it ends the connection.
    left_bytes: u64,
    random: StdRng,
}

impl Carrier {
    async fn carry(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let (depart, mut arrive) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY_MAX);
        let reading = async move {
            let mut due = Instant::now();
            let mut buffer = vec![0; READ_BYTES];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                let carried = length.min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
                self.left_bytes -= carried as u64;
                due = self.due(due, carried);
                let sent = depart.send((due, buffer[..carried].to_vec())).await;
                if sent.is_err() || self.left_bytes == 0 {
                    break;
                }
            }
            self
        };
        let writing = async move {
            while let Some((due, bytes)) = arrive.recv().await {
                sleep_until(due).await;
                to.write_all(&bytes).await?;
            }
            Ok::<_, io::Error>(())
        };
        let (mut carrier, _) = tokio::join!(reading, writing);
        if carrier.left_bytes == 0 && carrier.random.random() {
            End::Reset
        } else {
            End::Closed
        }
    }

    /// When what is read now arrives: never before what was read earlier.
    fn due(&mut self, before: Instant, bytes: usize) -> Instant {
        let late = self.lane.jitter.mul_f64(self.random.random());
        let due = before.max(Instant::now() + self.lane.delay + late);
        match self.lane.bytes_per_s {
            Some(rate) => due + Duration::from_secs_f64(bytes as f64 / f64::from(rate)),
            None => due,
        }
    }
}
