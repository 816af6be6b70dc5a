//! One blocking HTTP/1.1 client for all that is compared, so that no system is asked by a better one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A kept-alive connection to one server, opened when it is needed.
pub struct Connection {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
    index: Option<u64>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// The server was not reached: it surely did nothing.
    NotSent,
    /// It may have done it.
    Unknown,
}

impl Connection {
    /// To this server; each request takes at most `timeout`.
    pub fn new(address: SocketAddr, timeout: Duration) -> Connection {
        Connection { address, timeout, stream: None, index: None }
    }

    /// Asks; the status and the body.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), Failed> {
        if self.stream.is_none() {
            let opened = TcpStream::connect_timeout(&self.address, self.timeout).map_err(|_| Failed::NotSent)?;
            let set = opened.set_nodelay(true).and_then(|()| opened.set_read_timeout(Some(self.timeout)));
            set.map_err(|_| Failed::NotSent)?;
            self.stream = Some(BufReader::new(opened));
        }
        let asked = self.exchange(method, path, body);
        if asked.is_err() {
            // What comes late must not be taken for the answer to the next one.
            self.stream = None;
        }
        asked.map_err(|_| Failed::Unknown)
    }

    /// The index that the last answer was told with, to wait with next; Consul's and ours have one.
    pub fn index(&self) -> Option<u64> {
        self.index
    }

    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let stream = self.stream.as_mut().context("it was opened")?;
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("a status line")?.parse()?;
        let (mut length, mut chunked, mut close) = (0, false, false);
        self.index = None;
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                bail!("the answer was cut off");
            }
            let (name, value) = line.trim_end().split_once(':').unwrap_or((line.trim_end(), ""));
            match name.to_ascii_lowercase().as_str() {
                "" => break,
                "content-length" => length = value.trim().parse()?,
                "transfer-encoding" => chunked = value.trim() == "chunked",
                "x-consul-index" => self.index = value.trim().parse().ok(),
                "connection" => close = value.trim() == "close",
                _ => {}
            }
        }
        let body = if chunked { read_chunks(stream)? } else { read_exactly(stream, length)? };
        if close {
            self.stream = None;
        }
        Ok((status, body))
    }
}

fn read_exactly(stream: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(stream: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).context("a chunk's length")?;
        body.extend(read_exactly(stream, length)?);
        read_exactly(stream, 2)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        let mut text = &b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"[..];
        assert_eq!(read_chunks(&mut text).expect("whole"), b"abcde");
        assert!(read_chunks(&mut &b"3\r\nab"[..]).is_err());
    }
}
