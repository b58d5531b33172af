//! One plain request to the relay, and the whole answer.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::{explain::Code, net};

/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long the relay may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The connection ended, or what came back is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came back.
    #[error("no answer within {} s", ANSWER_MAX.as_secs())]
    Silent,
}

impl AskError {
    /// The same as a code for people.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Broken(error) => match error.downcast_ref::<hyper::Error>() {
                Some(error) if error.is_parse() => Code::NotARelay,
                _ => Code::LinkLost,
            },
            Self::Silent => Code::RelaySilent,
        }
    }
}

/// Sends a request over a fresh connection, which ends with it.
///
/// # Errors
///
/// An [`AskError`] if there is no complete answer.
pub(crate) async fn ask(
    stream: net::Stream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Option<Vec<u8>>>, AskError> {
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
            Ok(Response::from_parts(parts, Some(body.to_bytes().to_vec())))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // It may end before what it brought was read.
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.into()),
            },
        }
    };
    match timeout(ANSWER_MAX, exchange).await {
        Ok(answer) => answer.map_err(AskError::Broken),
        Err(_) => Err(AskError::Silent),
    }
}
