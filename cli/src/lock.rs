//! `everring lock`: holds a lock while a command runs, or takes, renews or gives one back by hand.
//!
//! The command finds the grant's fencing token in `EVERRING_FENCE`, where `put`, `del` and `add` look for it too: a
//! command that was stopped for longer than its lease can then do no harm, since its writes are refused.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use client::gateway::{Action, Failure, GatewayClient, Grant, Reply, Request, Seen};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::MissedTickBehavior;

use crate::args::{GatewaysArgs, OutputArgs};
use crate::out::{self, Form};
use crate::people::{self, EXIT_REFUSED, EXIT_UNKNOWN};
use crate::{EXIT_USAGE, duration};

/// `everring lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The lock.
    pub name: String,
    /// How long it is held without being renewed.
    #[arg(long, env = "EVERRING_TTL", default_value = "10s", value_parser = duration::parse)]
    pub ttl: Duration,
    /// How long to stand in the queue for it.
    #[arg(long, env = "EVERRING_WAIT", default_value = "0s", value_parser = duration::parse)]
    pub wait: Duration,
    /// Who takes it; the same owner is granted what it holds already. Default: another name for each call.
    #[arg(long, env = "EVERRING_OWNER")]
    pub owner: Option<String>,
    /// Hold it for another --ttl, under this fencing token.
    #[arg(long, value_name = "FENCE", conflicts_with_all = ["release", "command"])]
    pub renew: Option<u64>,
    /// Give it back, under this fencing token.
    #[arg(long, value_name = "FENCE", conflicts_with = "command")]
    pub release: Option<u64>,
    /// What to run while it is held; without a command the lock is taken, and its token is shown.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// How long to wait for each answer, beyond --wait.
    #[arg(long, env = "EVERRING_DEADLINE", default_value = "5s", value_parser = duration::parse)]
    pub deadline: Duration,
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How a call on a lock ended, if not well.
enum Refused {
    /// Another owner holds it, or the token's grant is over: a sentence.
    No(String),
    /// No answer that could be used.
    Unanswered(Failure, bool),
}

/// Leases are renewed three times in their length: two renewals may be lost.
const RENEWALS_PER_LEASE: u32 = 3;
/// The exit status of a command that was ended by a signal; shells add the signal's number to it.
const EXIT_BY_SIGNAL: u8 = 128;

/// `everring lock`.
///
/// # Errors
/// No gateway can be asked, or the command cannot be started.
pub fn run(args: LockArgs) -> anyhow::Result<u8> {
    if args.ttl.is_zero() {
        bail!("--ttl 0 would be over before it begins; give the lock at least 1ms");
    }
    let client = people::client(&args.gateways)?;
    people::block_on(async {
        let ended = match (args.renew, args.release) {
            (Some(fence), _) => args.renew(&client, fence).await.map(Some),
            (None, Some(fence)) => args.release(&client, fence).await.map(|()| None),
            (None, None) => match args.acquire(&client).await {
                Ok(grant) if !args.command.is_empty() => return args.hold(&client, grant).await,
                acquired => acquired.map(Some),
            },
        };
        match ended {
            Ok(grant) => args.show(grant).map(|()| 0),
            Err(refused) => Ok(args.tell(refused)),
        }
    })?
}

impl LockArgs {
    async fn acquire(&self, client: &GatewayClient) -> Result<Grant, Refused> {
        let owner = self.owner.clone().unwrap_or_else(client::gateway::request_id);
        let action = Action::Acquire { owner, ttl_ms: millis(self.ttl), wait_ms: millis(self.wait) };
        self.granted(
            client,
            Request { deadline: self.deadline + self.wait, ..Request::new("locks", &self.name, action) },
        )
        .await
    }

    async fn renew(&self, client: &GatewayClient, fence: u64) -> Result<Grant, Refused> {
        let action = Action::Renew { ttl_ms: millis(self.ttl) };
        self.granted(client, self.request(action, fence)).await
    }

    async fn release(&self, client: &GatewayClient, fence: u64) -> Result<(), Refused> {
        self.send(client, self.request(Action::Release, fence)).await.map(|_| ())
    }

    fn request(&self, action: Action, fence: u64) -> Request {
        let request = Request::new("locks", &self.name, action);
        Request { fence: Some(fence), deadline: self.deadline, ..request }
    }

    async fn granted(&self, client: &GatewayClient, request: Request) -> Result<Grant, Refused> {
        let answer = self.send(client, request).await?;
        answer.grant().ok_or_else(|| Refused::No("the gateway's answer names no fencing token".to_owned()))
    }

    async fn send(&self, client: &GatewayClient, request: Request) -> Result<client::gateway::Answer, Refused> {
        match client.send(&request).await {
            Reply::Ok(answer) if matches!(answer.seen, Seen::Held | Seen::FencedOff) => {
                Err(Refused::No(answer.problem().map_or_else(|| "refused".to_owned(), |problem| problem.detail)))
            }
            Reply::Ok(answer) => Ok(answer),
            Reply::Failed(failure) => Err(Refused::Unanswered(failure, false)),
            Reply::Unknown(failure) => Err(Refused::Unanswered(failure, true)),
        }
    }

    /// Runs the command, renews the lease while it runs, and gives the lock back.
    async fn hold(&self, client: &GatewayClient, grant: Grant) -> anyhow::Result<u8> {
        let (program, arguments) = self.command.split_first().context("there is a command")?;
        let mut command = Command::new(program);
        command.args(arguments).env("EVERRING_FENCE", grant.fence.to_string()).env("EVERRING_LOCK", &self.name);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                self.give_back(client, grant.fence).await;
                return Err(error).with_context(|| format!("cannot run {program}"));
            }
        };
        let (status, kept) = self.renew_until_ended(client, grant.fence, child).await?;
        if kept {
            self.give_back(client, grant.fence).await;
        }
        Ok(exit_code(status, kept))
    }

    /// How the command ended, and whether the lock was held to its end as far as is known.
    async fn renew_until_ended(
        &self,
        client: &GatewayClient,
        fence: u64,
        mut child: Child,
    ) -> anyhow::Result<(ExitStatus, bool)> {
        let mut renewals = tokio::time::interval(self.ttl / RENEWALS_PER_LEASE);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewals.tick().await;
        let (mut kept, name) = (true, &self.name);
        loop {
            tokio::select! {
                biased;
                ended = child.wait() => return Ok((ended.context("the command cannot be waited for")?, kept)),
                _ = renewals.tick(), if kept => match self.renew(client, fence).await {
                    Ok(_) => {}
                    Err(Refused::No(why)) => {
                        kept = false;
                        eprintln!("everring: the lock {name} is lost: {why}; what is written under it is refused");
                    }
                    // The next renewal may be heard; until then the token keeps everything right.
                    Err(Refused::Unanswered(failure, _)) => {
                        let Failure { code, detail, .. } = failure;
                        eprintln!("everring: the lock {name} was not renewed: {code}: {detail}");
                    }
                },
            }
        }
    }

    async fn give_back(&self, client: &GatewayClient, fence: u64) {
        if let Err(refused) = self.release(client, fence).await {
            // The lease ends by itself: nothing is wrong with what the command did.
            let _ = self.tell(refused);
        }
    }

    fn show(&self, grant: Option<Grant>) -> anyhow::Result<()> {
        match (grant, self.output.output) {
            (Some(Grant { fence, expires_in_ms }), Form::Json) => {
                out::json(&json!({ "lock": self.name, "fence": fence, "expires_in_ms": expires_in_ms }))
            }
            (Some(Grant { fence, expires_in_ms }), Form::Table) => {
                eprintln!("held {} for {expires_in_ms} ms; its fencing token:", self.name);
                out::line(&fence.to_string())
            }
            (None, Form::Json) => out::json(&json!({ "lock": self.name, "released": true })),
            (None, Form::Table) => {
                eprintln!("released {}", self.name);
                Ok(())
            }
        }
    }

    fn tell(&self, refused: Refused) -> u8 {
        let name = &self.name;
        match refused {
            Refused::No(why) => {
                eprintln!("everring: {name}: {why}");
                EXIT_REFUSED
            }
            Refused::Unanswered(Failure { code, detail, .. }, unknown) => {
                let advice = if unknown { "; it may have been done, and its lease ends by itself" } else { "" };
                eprintln!("everring: {name}: {code}: {detail}{advice}");
                match (unknown, code.as_str()) {
                    (true, _) => EXIT_UNKNOWN,
                    (false, "unreachable") => EXIT_USAGE,
                    (false, _) => EXIT_REFUSED,
                }
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The command's own status; 1 if it ended well and the lock did not last.
fn exit_code(status: ExitStatus, kept: bool) -> u8 {
    match status.code() {
        Some(0) if !kept => EXIT_REFUSED,
        Some(code) => u8::try_from(code).unwrap_or(EXIT_REFUSED),
        None => EXIT_BY_SIGNAL,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_command_s_status_counts_and_a_lost_lock_is_no_success() {
        assert_eq!(exit_code(ExitStatus::from_raw(0), true), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(0), false), EXIT_REFUSED);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8), false), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9), true), EXIT_BY_SIGNAL);
    }
}
