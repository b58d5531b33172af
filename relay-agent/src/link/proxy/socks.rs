//! SOCKS5 (RFC 1928) with user and password (RFC 1929).

use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ProxyError;
use crate::{config::Credentials, net::Stream};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const ADDRESS_V4: u8 = 1;
const NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

const NOT_SOCKS5: ProxyError = ProxyError::Protocol("it does not speak SOCKS5");

/// Asks for a connection to `host`: an address, or a name that the proxy resolves.
pub(super) async fn connect(
    mut stream: Stream,
    host: &str,
    port: u16,
    credentials: Option<&Credentials>,
) -> Result<Stream, ProxyError> {
    let methods: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    stream.write_all(methods).await?;
    stream.flush().await?;
    let [version, method] = read(&mut stream).await?;
    match (version, method, credentials) {
        (VERSION, NO_AUTHENTICATION, _) => {}
        (VERSION, USER_AND_PASSWORD, Some(credentials)) => {
            authenticate(&mut stream, credentials).await?;
        }
        (VERSION, _, _) => return Err(unauthorised(credentials.is_some())),
        _ => return Err(NOT_SOCKS5),
    }

    stream.write_all(&request(host, port)?).await?;
    stream.flush().await?;
    let [version, reply, _reserved, kind] = read(&mut stream).await?;
    if version != VERSION {
        return Err(NOT_SOCKS5);
    }
    if reply != 0 {
        return Err(ProxyError::SocksRefused(reason(reply)));
    }
    // The address the proxy uses for it: of no interest, but in the way.
    match kind {
        ADDRESS_V4 => drop(read::<{ 4 + 2 }>(&mut stream).await?),
        ADDRESS_V6 => drop(read::<{ 16 + 2 }>(&mut stream).await?),
        NAME => {
            let [name_bytes] = read(&mut stream).await?;
            let mut name = vec![0; usize::from(name_bytes) + 2];
            stream.read_exact(&mut name).await?;
        }
        _ => return Err(NOT_SOCKS5),
    }
    Ok(stream)
}

async fn authenticate(stream: &mut Stream, credentials: &Credentials) -> Result<(), ProxyError> {
    let mut message = vec![1];
    for text in [credentials.user.as_str(), credentials.password()] {
        message.push(counted(text)?);
        message.extend_from_slice(text.as_bytes());
    }
    stream.write_all(&message).await?;
    stream.flush().await?;
    match read(stream).await? {
        [_, 0] => Ok(()),
        _ => Err(unauthorised(true)),
    }
}

fn request(host: &str, port: u16) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(ADDRESS_V4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(ADDRESS_V6);
            request.extend(address.octets());
        }
        Err(_) => {
            request.extend([NAME, counted(host)?]);
            request.extend(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    Ok(request)
}

fn counted(text: &str) -> Result<u8, ProxyError> {
    u8::try_from(text.len())
        .map_err(|_| ProxyError::Protocol("a name is longer than SOCKS5 allows"))
}

async fn read<const BYTES: usize>(stream: &mut Stream) -> Result<[u8; BYTES], ProxyError> {
    let mut bytes = [0; BYTES];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn unauthorised(is_known: bool) -> ProxyError {
    ProxyError::Unauthorised {
        is_known,
        schemes: String::new(),
    }
}

fn reason(reply: u8) -> &'static str {
    match reply {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "it makes no connections",
        8 => "it does not know this type of address",
        _ => "for a reason it does not name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_addresses_as_such() {
        let cases: [(&str, &[u8]); 3] = [
            ("10.0.0.1", &[5, 1, 0, 1, 10, 0, 0, 1, 1, 187]),
            (
                "::1",
                &[
                    5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 187,
                ],
            ),
            ("a.b", &[5, 1, 0, 3, 3, b'a', b'.', b'b', 1, 187]),
        ];
        for (host, expected) in cases {
            assert_eq!(request(host, 443).unwrap(), expected, "{host}");
        }
        assert!(request(&"a".repeat(256), 443).is_err());
    }
}
