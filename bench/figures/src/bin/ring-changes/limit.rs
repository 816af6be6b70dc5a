//! What disk and loopback allow: the bound that a copy over them cannot pass, whatever the program does.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

/// Bytes that are moved to measure.
const BYTES: usize = 64 << 20;
/// Bytes that are written before each sync: what a group commit of the log gathers under load.
const SYNC_BYTES: usize = 1 << 20;

/// MiB a second of the slower of the two: writing to this directory's disk with syncs, and sending over loopback.
pub fn mib_per_second(directory: &Path) -> Result<f64> {
    Ok(disk(directory)?.min(loopback()?))
}

fn disk(directory: &Path) -> Result<f64> {
    let path = directory.join("limit");
    let mut file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
    let block = vec![0x5a_u8; SYNC_BYTES];
    let began = Instant::now();
    for _ in 0..BYTES / SYNC_BYTES {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(BYTES as f64 / f64::from(1 << 20) / seconds)
}

fn loopback() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let block = vec![0x5a_u8; SYNC_BYTES];
        (0..BYTES / SYNC_BYTES).try_for_each(|_| stream.write_all(&block))?;
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut block = vec![0_u8; SYNC_BYTES];
    let began = Instant::now();
    while stream.read(&mut block)? > 0 {}
    let seconds = began.elapsed().as_secs_f64();
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(BYTES as f64 / f64::from(1 << 20) / seconds)
}
