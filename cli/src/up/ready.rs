//! Who is ready: every child is asked after each of its starts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::keeper::{Life, Lives, Roster, Spec, tail};
use super::plan::Role;

/// How often those that are not ready yet are asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long one of them may take to answer.
const ASK_MAX: Duration = Duration::from_secs(1);

/// Asks the children whether they are ready.
#[derive(Clone)]
pub struct Prober {
    http: reqwest::Client,
    roster: Roster,
    lives: Arc<watch::Sender<Lives>>,
}

impl Prober {
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(roster: &Roster, lives: &Arc<watch::Sender<Lives>>) -> Result<Prober, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().timeout(ASK_MAX).build()?;
        Ok(Prober { http, roster: roster.clone(), lives: Arc::clone(lives) })
    }

    /// Marks every life that becomes ready, for as long as it is driven.
    pub async fn run(self) {
        loop {
            for spec in &self.roster.specs() {
                let life = self.lives.borrow().get(&spec.name).cloned().unwrap_or_default();
                if life.pid.is_some() && !life.ready && self.ask(spec).await.is_ok() {
                    self.lives.send_modify(|lives| {
                        // It may have died since; then the answer was that of a life that is over.
                        let same = lives.get_mut(&spec.name).filter(|now| now.pid == life.pid);
                        if let Some(now) = same {
                            now.ready = true;
                        }
                    });
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits until all children of these roles are ready, for the first time.
    ///
    /// # Errors
    /// A sentence: who is not ready, why, and the end of its log.
    pub async fn wait(&self, within: Duration, which: impl Fn(Role) -> bool) -> Result<(), String> {
        let awaited: Vec<Spec> = self.roster.specs().into_iter().filter(|spec| which(spec.role)).collect();
        let mut seen = self.lives.subscribe();
        let life = |lives: &Lives, spec: &Spec| lives.get(&spec.name).cloned().unwrap_or_default();
        let settled = |lives: &Lives| {
            let failed = awaited.iter().any(|spec| life(lives, spec).last_end.is_some());
            failed || awaited.iter().all(|spec| life(lives, spec).ready)
        };
        let waited = tokio::time::timeout(within, seen.wait_for(settled)).await.is_ok();
        let lives = self.lives.borrow().clone();
        if let Some(failed) = awaited.iter().find(|spec| life(&lives, spec).last_end.is_some()) {
            return Err(not_started(failed, &life(&lives, failed)));
        }
        if waited {
            return Ok(());
        }
        let mut text = format!("the fleet was not ready within {} s:\n", within.as_secs());
        let late: Vec<&Spec> = awaited.iter().filter(|spec| !life(&lives, spec).ready).collect();
        for spec in &late {
            let why = self.ask(spec).await.err().unwrap_or_else(|| "it has just become ready".to_owned());
            text.push_str(&format!("{} {}: {}\n", spec.role.name(), spec.name, why.trim_end().replace('\n', ", ")));
        }
        if let Some(first) = late.first() {
            text.push_str(&format!("the end of {}:\n{}", first.log.display(), tail(&first.log)));
        }
        text.push_str("give it longer with --ready-within, or look at the logs");
        Err(text)
    }

    /// Why it is not ready, if so.
    async fn ask(&self, spec: &Spec) -> Result<(), String> {
        let answer = self.http.get(format!("http://{}/readyz", spec.http)).send().await;
        let answer = answer.map_err(|_| format!("does not answer at {}", spec.http))?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(answer.text().await.unwrap_or_else(|_| "does not say why".to_owned()))
    }
}

fn not_started(spec: &Spec, life: &Life) -> String {
    let how = life.last_end.as_deref().unwrap_or("ended");
    let (role, name) = (spec.role.name(), &spec.name);
    format!("{role} {name} did not start: it {how}; the end of {}:\n{}", spec.log.display(), tail(&spec.log).trim_end())
}
