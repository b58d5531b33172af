//! HTTP CONNECT.

use std::io;

use tokio::{
    io::{AsyncWriteExt, BufReader, copy_bidirectional},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls::pki_types::ServerName};

use super::Shared;
use crate::wire::{self, Kind};

/// Tunnels to wherever the agent asks, if it shows the password.
pub(super) async fn connect(
    proxy: &Shared,
    password: Option<&str>,
    mut agent: TcpStream,
) -> io::Result<()> {
    let mut relay = open(proxy, password, &mut agent).await?;
    copy_bidirectional(&mut agent, &mut relay).await?;
    Ok(())
}

/// Tunnels, and reads along.
pub(super) async fn intercept(
    proxy: &Shared,
    accept: &TlsAcceptor,
    connect: &TlsConnector,
    mut agent: TcpStream,
) -> io::Result<()> {
    let relay = open(proxy, None, &mut agent).await?;
    let mut agent = accept.accept(agent).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut relay = connect.connect(name, relay).await?;
    copy_bidirectional(&mut agent, &mut relay).await?;
    Ok(())
}

/// Answers one CONNECT; the connection to the relay it asked for.
async fn open(
    proxy: &Shared,
    password: Option<&str>,
    agent: &mut TcpStream,
) -> io::Result<TcpStream> {
    // Who asks for a tunnel says nothing more before it is there.
    let mut agent = BufReader::new(agent);
    let asked = wire::read(&mut agent, Kind::Request).await?;
    let asked = asked.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut words = asked.words();
    let (Some("CONNECT"), Some(authority)) = (words.next(), words.next()) else {
        return refuse(proxy, &mut agent, "405 Method Not Allowed").await;
    };
    let shown = asked.headers.text("proxy-authorization");
    if password.is_some_and(|password| password != shown) {
        let refusal =
            "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"";
        return refuse(proxy, &mut agent, refusal).await;
    }
    let Ok(relay) = TcpStream::connect(authority).await else {
        return refuse(proxy, &mut agent, "502 Bad Gateway").await;
    };
    relay.set_nodelay(true)?;
    agent
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    proxy.pass();
    Ok(relay)
}

async fn refuse<T>(
    proxy: &Shared,
    agent: &mut BufReader<&mut TcpStream>,
    status: &str,
) -> io::Result<T> {
    proxy.refuse();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    agent.write_all(answer.as_bytes()).await?;
    Err(io::ErrorKind::ConnectionRefused.into())
}
