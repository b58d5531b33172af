//! The network does what it says, else no test that uses it shows anything.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// How long a black hole is listened to.
const SILENCE: Duration = Duration::from_millis(300);

/// Sends everything back.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    addr
}

async fn rough(faults: Faults, seed: u64) -> Network {
    Network::rough(echo().await, faults, StdRng::seed_from_u64(seed)).await
}

async fn connect(network: &Network) -> TcpStream {
    TcpStream::connect(network.addr()).await.unwrap()
}

/// Sends so many bytes and waits for all of them; how many came, and how long it took.
async fn exchange(stream: &mut TcpStream, bytes: usize) -> (usize, Duration) {
    let started = Instant::now();
    let (mut from, mut to) = stream.split();
    let sent = vec![7; bytes];
    let mut came = vec![0; bytes];
    let mut count = 0;
    let reading = async {
        while count < bytes {
            match from.read(&mut came[count..]).await {
                Ok(length @ 1..) => count += length,
                Ok(0) | Err(_) => break,
            }
        }
    };
    tokio::join!(reading, async {
        let _ = to.write_all(&sent).await;
    });
    (count, started.elapsed())
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(b"?").await;
    timeout(SILENCE, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn delay_and_bandwidth_are_those_of_each_direction() {
    let slow = Lane {
        delay: Duration::from_millis(40),
        jitter: Duration::from_millis(20),
        bytes_per_s: Some(200_000),
    };
    let mut faults = Faults::both(slow);
    let network = rough(faults, 1).await;
    let (_, elapsed) = exchange(&mut connect(&network).await, 1).await;
    assert!(elapsed >= slow.delay * 2, "{elapsed:?}");
    let (count, elapsed) = exchange(&mut connect(&network).await, 50_000).await;
    assert_eq!(count, 50_000);
    assert!(elapsed >= Duration::from_millis(250), "{elapsed:?}");

    faults.to_relay = Lane::default();
    faults.to_agent.bytes_per_s = None;
    let network = rough(faults, 1).await;
    let (_, elapsed) = exchange(&mut connect(&network).await, 1).await;
    assert!(elapsed >= slow.delay, "{elapsed:?}");
}

#[tokio::test]
async fn a_black_hole_says_nothing_to_anybody() {
    let network = rough(Faults::default(), 1).await;
    let mut old = connect(&network).await;
    assert_eq!(exchange(&mut old, 10).await.0, 10);

    network.black_hole();
    assert!(is_silent(&mut old).await);
    // The first may still find room, the others must not.
    let connecting = async || timeout(SILENCE, TcpStream::connect(network.addr())).await;
    let _ = connecting().await;
    assert!(connecting().await.is_err(), "somebody was answered");

    network.restore();
    assert_eq!(exchange(&mut connect(&network).await, 10).await.0, 10);
    assert!(is_silent(&mut old).await, "what was lost stays lost");
}

#[tokio::test]
async fn what_swallows_seems_to_be_there() {
    let network = rough(Faults::default(), 1).await;
    network.swallow();
    let mut stream = connect(&network).await;
    assert!(is_silent(&mut stream).await);
    network.restore();
    assert!(is_silent(&mut stream).await);
    assert_eq!(exchange(&mut connect(&network).await, 10).await.0, 10);
}

#[tokio::test]
async fn what_is_feigned_looks_alive() {
    let network = rough(Faults::default(), 1).await;
    let mut old = connect(&network).await;
    assert_eq!(exchange(&mut old, 10).await.0, 10);
    network.feign();
    let mut signs = [0; 8];
    old.read_exact(&mut signs).await.unwrap();
    assert_eq!(signs, [0x89, 0, 0x8a, 0, 0x89, 0, 0x8a, 0]);
    assert_eq!(exchange(&mut connect(&network).await, 10).await.0, 10);
}

#[tokio::test]
async fn a_cut_is_felt_even_if_it_is_short() {
    let network = rough(Faults::default(), 1).await;
    let mut old = connect(&network).await;
    assert_eq!(exchange(&mut old, 10).await.0, 10);
    network.cut();
    network.restore();
    assert_eq!(exchange(&mut old, 10).await.0, 0);
    assert_eq!(exchange(&mut connect(&network).await, 10).await.0, 10);
}

#[tokio::test]
async fn connections_end_where_chance_has_it_and_the_seed_repeats_it() {
    let mut ends = Vec::new();
    for seed in [1, 1, 2] {
        let network = rough(Faults::default().ending_after(1_000..9_000), seed).await;
        let mut stream = connect(&network).await;
        // Small steps, so that all that is let through comes through before the end.
        let mut whole = 0;
        while exchange(&mut stream, 10).await.0 == 10 {
            whole += 10;
        }
        assert!((990..9_000).contains(&whole), "{whole}");
        ends.push(whole);
    }
    assert_eq!(ends[0], ends[1]);
    assert_ne!(ends[0], ends[2]);
}
