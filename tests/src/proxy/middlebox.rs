//! What reads HTTP on the way: it takes a request whole, passes it on, and takes the answer whole.
//! So nothing gets through that does not end, and a WebSocket only if it wants.

use std::{future, io, net::SocketAddr};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Shared, Upgrades};
use crate::wire::{self, Kind};

pub(super) async fn serve(
    proxy: &Shared,
    relay: SocketAddr,
    upgrades: Upgrades,
    agent: TcpStream,
) -> io::Result<()> {
    let mut agent = BufReader::new(agent);
    while let Some(request) = wire::read(&mut agent, Kind::Request).await? {
        if !request.headers.text("upgrade").is_empty() {
            proxy.refuse();
            match upgrades {
                Upgrades::Refused(status) => {
                    let refusal = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
                    agent.write_all(refusal.as_bytes()).await?;
                    continue;
                }
                Upgrades::Dropped => return Ok(()),
                Upgrades::Awaited => future::pending().await,
                Upgrades::Stripped => {}
            }
        } else {
            proxy.pass();
        }
        let relay = TcpStream::connect(relay).await?;
        relay.set_nodelay(true)?;
        let mut relay = BufReader::new(relay);
        relay.write_all(&request.forwarded()).await?;
        let answer = wire::read(&mut relay, Kind::Response).await?;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        agent.write_all(&answer.forwarded()).await?;
    }
    Ok(())
}
