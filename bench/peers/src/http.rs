//! One kept-alive HTTP/1.1 connection with one request at a time: the lightest client that still reads HTTP properly.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The connection.
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl HttpConnection {
    /// Opens it.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn open(address: SocketAddr) -> Result<HttpConnection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true).context("a fresh connection takes TCP_NODELAY")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("an HTTP connection")?;
        // Ends with the sender; its error is seen by the request that it breaks.
        tokio::spawn(connection);
        Ok(HttpConnection { sender, host: address.to_string() })
    }

    /// One request and its whole answer.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ask(&mut self, method: Method, path: String, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().context("a path")?;
        request.headers_mut().insert(header::HOST, self.host.parse().context("a host")?);
        self.sender.ready().await.context("the connection is closed")?;
        let answer = self.sender.send_request(request).await.context("no answer")?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
        Ok((status, body))
    }
}
