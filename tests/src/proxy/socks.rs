//! SOCKS5 (RFC 1928) without authentication.

use std::{io, net::Ipv4Addr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};

use super::Shared;

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;

pub(super) async fn serve(proxy: &Shared, mut agent: TcpStream) -> io::Result<()> {
    // Version, and the ways to authenticate: none is chosen.
    let _ = agent.read_u8().await?;
    let ways = agent.read_u8().await?;
    agent.read_exact(&mut vec![0; ways.into()]).await?;
    agent.write_all(&[VERSION, 0]).await?;

    let mut head = [0; 4];
    agent.read_exact(&mut head).await?;
    let [VERSION, CONNECT, _, kind] = head else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let host = match kind {
        IPV4 => Ipv4Addr::from(agent.read_u32().await?).to_string(),
        NAME => {
            let length = agent.read_u8().await?;
            let mut name = vec![0; length.into()];
            agent.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(io::Error::other)?
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let port = agent.read_u16().await?;
    let mut relay = TcpStream::connect((host.as_str(), port)).await?;
    relay.set_nodelay(true)?;
    agent
        .write_all(&[VERSION, 0, 0, IPV4, 0, 0, 0, 0, 0, 0])
        .await?;
    proxy.pass();
    copy_bidirectional(&mut agent, &mut relay).await?;
    Ok(())
}
