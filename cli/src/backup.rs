//! `everring backup` and `everring restore`: a bucket to a file, and back.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use client::backup::{self, Existing, Progress, Restored, Saved};
use client::gateway::GatewayClient;
use serde_json::json;

use crate::args::{GatewaysArgs, OutputArgs};
use crate::out::{self, Form};
use crate::people::block_on;

/// How often progress is shown on a terminal.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// `everring backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The bucket.
    pub bucket: String,
    /// The file to write. It has this name once it is whole; until then `.part` stands behind it.
    #[arg(long, env = "EVERRING_BACKUP_TO", value_name = "FILE")]
    pub to: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `everring restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The bucket to write to; made as the file says if it is not there.
    pub bucket: String,
    /// The file, as `everring backup` wrote it. It is read through before anything is written.
    #[arg(long, env = "EVERRING_RESTORE_FROM", value_name = "FILE")]
    pub from: PathBuf,
    /// Keep what a key holds already, instead of replacing it.
    #[arg(long)]
    pub if_absent: bool,
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Saves a bucket.
///
/// # Errors
/// The backup was not made; no file of that name was made or changed.
pub fn save(args: BackupArgs) -> anyhow::Result<u8> {
    let client = GatewayClient::new(&args.gateways.gateway)?;
    let began = Instant::now();
    let mut bar = Bar::new("saved");
    let saved = block_on(backup::backup(&client, &args.bucket, &args.to, args.overwrite, |now| bar.show(now)))?
        .with_context(|| format!("the bucket `{}` was not saved", args.bucket))?;
    bar.clear();
    let Saved { entries, arcs, bytes, begun_again, fingerprint } = saved;
    let (seconds, file) = (began.elapsed().as_secs_f64(), args.to.display().to_string());
    match args.output.output {
        Form::Json => out::json(&json!({
            "bucket": args.bucket, "file": file, "keys": entries, "arcs": arcs, "bytes": bytes,
            "arcs_begun_again": begun_again, "fingerprint": fingerprint, "seconds": seconds,
        }))?,
        Form::Table => out::table(&[
            row("bucket", &args.bucket),
            row("file", &file),
            row("keys", &entries.to_string()),
            row("arcs", &format!("{arcs}, {begun_again} begun again")),
            row("bytes", &bytes.to_string()),
            row("fingerprint", &fingerprint),
            row("seconds", &format!("{seconds:.1}")),
        ])?,
    }
    Ok(0)
}

/// Restores a bucket.
///
/// # Errors
/// The file is no whole backup, and nothing was done; or some key could not be written, and the error says how far it
/// came.
pub fn restore(args: RestoreArgs) -> anyhow::Result<u8> {
    let client = GatewayClient::new(&args.gateways.gateway)?;
    let began = Instant::now();
    let existing = if args.if_absent { Existing::Kept } else { Existing::Replaced };
    let bar = std::cell::RefCell::new(Bar::new("restored"));
    let shown = |now| bar.borrow_mut().show(now);
    let restored = block_on(backup::restore(&client, &args.bucket, &args.from, existing, shown))?
        .with_context(|| format!("the bucket `{}` was not restored", args.bucket))?;
    bar.borrow().clear();
    let Restored { file, written, kept, made_bucket } = restored;
    let (seconds, path) = (began.elapsed().as_secs_f64(), args.from.display().to_string());
    match args.output.output {
        Form::Json => out::json(&json!({
            "bucket": args.bucket, "file": path, "of_bucket": file.head.bucket, "of_cluster": file.head.cluster,
            "began_ms": file.head.began_ms, "keys": file.end.end, "written": written, "kept": kept,
            "made_bucket": made_bucket, "fingerprint": file.end.fingerprint, "seconds": seconds,
        }))?,
        Form::Table => out::table(&[
            row("bucket", &if made_bucket { format!("{}, made", args.bucket) } else { args.bucket.clone() }),
            row("file", &format!("{path}, of bucket {} of cluster {}", file.head.bucket, file.head.cluster)),
            row("written", &written.to_string()),
            row("kept", &kept.to_string()),
            row("fingerprint", &file.end.fingerprint),
            row("seconds", &format!("{seconds:.1}")),
        ])?,
    }
    Ok(0)
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}

/// How far it came, on one line of a terminal; nothing anywhere else.
struct Bar {
    verb: &'static str,
    shown_at: Option<Instant>,
    on: bool,
}

impl Bar {
    fn new(verb: &'static str) -> Bar {
        Bar { verb, shown_at: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, now: Progress) {
        if !self.on || self.shown_at.is_some_and(|at| at.elapsed() < SHOWN_EVERY) {
            return;
        }
        self.shown_at = Some(Instant::now());
        let of = now.of.map(|of| format!(" of {of}")).unwrap_or_default();
        eprint!("\r{} {}{of} keys", self.verb, now.entries);
        // Nobody is helped by an error about a progress bar.
        let _ = std::io::stderr().flush();
    }

    fn clear(&self) {
        if self.on && self.shown_at.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
