//! The door of a running fleet: `everring ring add` asks here for one more storage node.
//!
//! It is a Unix socket below the fleet's data directory, so whoever may write there may add nodes, and nobody else: not
//! a page in a browser, not another user. Where it is stands in discovery, under [`DOOR_KEY`]. One line of JSON is
//! asked and one is answered.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use client::consul::Consul;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use super::directory::DataDirectory;
use super::keeper::Keeper;
use super::plan::{Plan, Role};

/// Where discovery keeps the socket's path.
pub const DOOR_KEY: &str = "everring/up";
/// Storage nodes of one fleet, those that have left included.
const NODES_MAX: usize = 64;
/// The longest question.
const ASK_BYTES_MAX: u64 = 4_096;
/// How long whoever knocks may take to ask.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Start a storage node of this name.
    Add(String),
    /// How is it?
    Look(String),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// How it is.
    Child {
        /// Its process, while it runs.
        pid: Option<u32>,
        /// How its last life ended, if one did.
        last_end: Option<String>,
        /// Where its output goes.
        log: PathBuf,
    },
    /// It is not done; why.
    Refused(String),
}

/// The door, open as long as this is there.
pub struct Door<'a> {
    listener: Option<UnixListener>,
    plan: &'a Plan,
    keeper: &'a Keeper,
    data: Mutex<&'a mut DataDirectory>,
}

impl<'a> Door<'a> {
    /// Opens it and tells discovery. A fleet that cannot have one runs without; only `everring ring add` misses it.
    pub async fn open(plan: &'a Plan, keeper: &'a Keeper, data: &'a mut DataDirectory) -> Door<'a> {
        let path = data.path().join("door");
        let listener = match listen(&path).and_then(|listener| Ok((listener, Consul::new(&plan.discovery)?))) {
            Ok((listener, consul)) => {
                let told = consul.kv_put(DOOR_KEY, path.to_string_lossy().as_bytes()).await;
                if let Err(error) = told {
                    eprintln!(
                        "everring: discovery was not told where nodes can be added: {}",
                        stdx::error_chain(&error)
                    );
                }
                Some(listener)
            }
            Err(error) => {
                eprintln!("everring: nodes cannot be added to this fleet: {error:#}");
                None
            }
        };
        Door { listener, plan, keeper, data: Mutex::new(data) }
    }

    /// Answers whoever knocks, for as long as it is driven.
    pub async fn serve(&self) -> Infallible {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // One at a time: each takes a moment, and who breaks off harms nobody.
                    let _ = tokio::time::timeout(ASK_WITHIN, self.answer(stream)).await;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        BufReader::new(read.take(ASK_BYTES_MAX)).read_line(&mut line).await?;
        let told = match serde_json::from_str(&line) {
            Ok(Ask::Add(name)) => self.add(&name).await,
            Ok(Ask::Look(name)) => self.look(&name),
            Err(error) => Told::Refused(format!("this is no question: {error}")),
        };
        write.write_all(format!("{}\n", serde_json::to_string(&told)?).as_bytes()).await
    }

    async fn add(&self, name: &str) -> Told {
        let nodes = self.keeper.roster().specs().into_iter().filter(|spec| spec.role == Role::StorageNode).count();
        let fit = (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let mut data = self.data.lock().await;
        if !fit {
            return Told::Refused(format!("{name:?} is no name: use 1 to 32 of a-z, 0-9 and -"));
        } else if self.keeper.roster().find(name).is_some() {
            return Told::Refused(format!("this fleet has a process called {name} already; choose another name"));
        } else if data.path().join(name).exists() {
            return Told::Refused(format!(
                "there is data of a {name} in {} already; choose another name",
                data.path().display()
            ));
        } else if nodes >= NODES_MAX {
            return Told::Refused(format!("this fleet has had {nodes} storage nodes, and takes no more"));
        }
        match self.plan.another_node(name).and_then(|spec| data.note_added(name).map(|()| spec)) {
            Ok(spec) => self.keeper.add(spec),
            Err(error) => return Told::Refused(format!("{error:#}")),
        }
        self.look(name)
    }

    fn look(&self, name: &str) -> Told {
        let Some(spec) = self.keeper.roster().find(name) else {
            return Told::Refused(format!("this fleet has no process called {name}"));
        };
        let life = self.keeper.lives().borrow().get(name).cloned().unwrap_or_default();
        Told::Child { pid: life.pid, last_end: life.last_end, log: spec.log }
    }
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let cannot = || format!("cannot listen at {}; a shorter --data may help", path.display());
    // Left by an `everring up` that was killed: the directory's lock says that it is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(cannot),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(cannot)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(cannot)?;
    Ok(listener)
}

/// Asks at the door of the fleet that this discovery belongs to.
///
/// # Errors
/// There is no `everring up`, or not on this machine.
pub async fn ask(consul: &Consul, ask: &Ask) -> anyhow::Result<Told> {
    let Some(pair) = consul.kv_get(DOOR_KEY, None).await?.value else {
        bail!(
            "this discovery knows of no `everring up` that could start a node; a node joins by being started: \
             `everring storage-node` with a name and a data directory of its own"
        );
    };
    let path = PathBuf::from(String::from_utf8_lossy(&pair.value).into_owned());
    let stream = UnixStream::connect(&path).await.with_context(|| {
        format!("nobody answers at {}; does the fleet's `everring up` still run, and on this machine?", path.display())
    })?;
    let (read, mut write) = stream.into_split();
    write.write_all(format!("{}\n", serde_json::to_string(ask)?).as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    serde_json::from_str(&line).context("`everring up` answered something else; is it of another version?")
}
